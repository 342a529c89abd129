"""Encoded image -> upright uint8 RGB pixels.

`PIL.Image.open` is not used: it warns of large images through the process-wide warnings filter.
The header's size is checked here instead, before a pixel is decoded. No global state is touched,
so any number of threads can read at once.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from io import BytesIO
from threading import BoundedSemaphore
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from fungistore.errors import ImageError
from fungistore.modalities.image.extra_formats import RAW
from fungistore.modalities.image.formats import find_decoder, is_raw
from fungistore.modalities.image.rescue import completed_jpeg, with_other_ends, without_metadata

# The largest camera sensors give 200 megapixels. At Pillow's 4 bytes a pixel this is 1 GiB.
MAX_PIXELS = 2**28
# Of images beyond this size one is decoded at a time: it takes up to ten bytes a pixel meanwhile.
LARGE_PIXELS = 2**25
_LARGE = BoundedSemaphore(1)
TRUNCATED = "truncated"  # in what Pillow says of content that ends too early

# EXIF orientation -> what turns the stored pixels upright (Exif 2.3, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(stream: IO[bytes], max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the pixels of an encoded image; safe to call from many threads.

    Returns:
        uint8 [height, width, 3], RGB, C-contiguous; upright after its EXIF orientation,
        transparency over white, 16-bit grey rounded to 8 bits, the first frame of an animation.
        Damaged metadata are left out; a JPEG that lacks its end mark alone is whole.

    Raises:
        ImageError: foreign content, float pixels, or a header that declares more than max_pixels.
        Exception: nearly any other, where the content is damaged.
    """
    content = stream.read()
    try:
        return _decoded(content, max_pixels)
    except ImageError:
        raise
    except Exception:
        for bare in without_metadata(content):
            if bare != content:
                with suppress(Exception):
                    return _decoded(bare, max_pixels)
        with suppress(Exception):
            if (pixels := _whole_without_end(content, max_pixels)) is not None:
                return pixels
        raise


def _whole_without_end(content: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG that lacks its end mark alone."""
    ended = (_decoded(one, max_pixels) for one in with_other_ends(content))
    first = next(ended, None)
    is_whole = first is not None and all(np.array_equal(first, other) for other in ended)
    return first if is_whole else None


def measure_image(stream: IO[bytes]) -> tuple[int, int, Image.Transpose | None]:
    """Return width and height as an image is stored, and what turns it upright; no pixel is read.

    Raises:
        ImageError: foreign content.
        Exception: nearly any other, where the content is damaged.
    """
    with find_decoder(stream)(stream) as image:
        return image.width, image.height, turn_of(image)


def rescue(stream: IO[bytes], max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the pixels of an image that ends too early, as far as they go.

    Of a JPEG the rest is grey, of other formats black. One that lacks its end mark alone is whole.

    Returns:
        As `decode`.

    Raises:
        ImageError: nothing of it can be read.
        Exception: nearly any other, likewise.
    """
    content = stream.read()
    if completed := completed_jpeg(content):
        return _decoded(completed, max_pixels)
    return _decoded(content, max_pixels, whole=False)


def _decoded(content: bytes, max_pixels: int, *, whole: bool = True) -> NDArray[np.uint8]:
    stream = BytesIO(content)
    decoder = find_decoder(stream)
    with decoder(stream) as image:
        if is_raw(image):
            raise ImageError(RAW)
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"the header declares {image.width} x {image.height} pixels, "
                f"more than the limit of {max_pixels}"
            )
        is_large = image.width * image.height > LARGE_PIXELS
        with _LARGE if is_large else nullcontext():
            return _loaded(image, whole=whole)


def _loaded(image: Any, *, whole: bool) -> NDArray[np.uint8]:
    try:
        loaded = image.load()
    except OSError as error:
        if whole or TRUNCATED not in str(error):
            raise
        return pixels_of(image._new(image._im))  # with the lines that were there
    return pixels_of(loaded if isinstance(loaded, Image.Image) else image)


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a loaded Pillow image, as `decode` does.

    Raises:
        ImageError: float pixels, or grey ones of no agreed range.
    """
    # After load(): TIFFs are turned there, and then have no orientation left.
    turn = turn_of(image)
    pixels = _to_rgb(image)
    return np.array(pixels.transpose(turn) if turn is not None else pixels)


def turn_of(image: Any) -> Image.Transpose | None:
    """Return what turns an image upright after its EXIF orientation; None of one that is."""
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Corrupt metadata, which can raise nearly anything, does not spoil sound pixels.
    except Exception:
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range; store 8 or 16 bits instead")
    if image.mode.startswith("I"):
        return _sixteen_to_eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255: value / 257, rounded, where Pillow's convert would clip."""
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("32-bit grey pixels beyond 0..65535 have no agreed range")
    grey = ((values + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")  # of a PNG: one grey value
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)
