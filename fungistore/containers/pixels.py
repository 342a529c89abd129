"""Arrays of pixels as bytes that decode to the very same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from PIL import Image

from fungistore.errors import ItemError

CHANNELS = (1, 3, 4)
MOST_BYTES = 1 << 30  # of one image: of what a header declares, no more is taken into memory
ROUNDING = 1e-6  # beyond 0 and 1, of numbers that were computed


def encode_pixels(pixels: Any) -> bytes:
    """Return an image without loss, as PNM where that can hold it, else as PNG.

    Args:
        pixels: [h, w], [h, w, c] or [c, h, w] with one, three or four channels; uint8, uint16,
            truth values, or floating-point numbers from 0 to 1.

    Raises:
        ItemError: they are no pixels.
    """
    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in CHANNELS)
    if not is_image or not array.size:
        raise ItemError(f"an array of shape {list(array.shape)} is no image")
    array = _integers(array.astype(array.dtype.newbyteorder("="), copy=False))
    height, width = array.shape[:2]
    if array.ndim == 2:
        depth = 255 if array.dtype == np.uint8 else 65535
        big_endian = array.astype(array.dtype.newbyteorder(">"))
        return b"P5 %d %d %d\n" % (width, height, depth) + big_endian.tobytes()
    if array.dtype == np.uint8 and array.shape[-1] == 3:
        return b"P6 %d %d 255\n" % (width, height) + array.tobytes()
    if array.dtype != np.uint8:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def refuse_huge(shape: Sequence[int], number_bytes: int) -> None:
    """Refuse images that are larger than any that is decoded.

    Raises:
        ItemError: an image of this shape has more than MOST_BYTES.
    """
    if prod(shape) * number_bytes > MOST_BYTES:
        raise ItemError(
            f"the header declares images of {list(shape)}, more than {MOST_BYTES} bytes"
        )


def _integers(array: Any) -> Any:
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype in (np.uint8, np.uint16):
        return array
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if low < -ROUNDING or high > 1 + ROUNDING or not low <= high:
            raise ItemError(
                f"pixels from {low:.3g} to {high:.3g}, where numbers from 0 to 1 are expected: "
                "give images before they are normalised"
            )
        return np.clip(np.rint(array * 255), 0, 255).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        low, high = int(array.min()), int(array.max())
        if low >= 0 and high <= 255:
            return array.astype(np.uint8)
    raise ItemError(f"pixels of the type {array.dtype} have no agreed range")
