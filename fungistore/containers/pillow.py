"""A Pillow image as bytes that decode to the same pixels."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from fungistore.containers.pixels import encode_pixels


def encode_image(image: Image.Image) -> bytes:
    """Return an image without loss: as PNM for grey and RGB, else as PNG."""
    if image.mode in ("L", "RGB"):
        return encode_pixels(np.asarray(image))
    if image.mode not in ("1", "LA", "P", "RGBA", "I;16", "I"):
        return encode_pixels(np.asarray(image.convert("RGB")))
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
