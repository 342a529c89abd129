"""A Pillow image as bytes that decode to the same pixels."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from fungistore.containers.pixels import encode_pixels
from fungistore.errors import ItemError

WITH_ALPHA = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}  # as PNG has it
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def encode_image(image: Image.Image) -> bytes:
    """Return an image without loss: as PNM for grey and RGB, else as PNG.

    Raises:
        ItemError: numbers of no agreed range.
    """
    if image.mode == "I":  # of 32 bits, with values of 16
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ItemError("32-bit grey pixels beyond 0..65535 have no agreed range")
        return encode_pixels(values.astype(np.uint16))
    if image.mode == "F" or image.mode.startswith("I;16"):
        return encode_pixels(np.asarray(image))
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return encode_pixels(np.asarray(image))
    if image.mode in WITH_ALPHA:
        image = image.convert(WITH_ALPHA[image.mode])
    if image.mode not in PNG_MODES:
        return encode_pixels(np.asarray(image.convert("RGB")))
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
