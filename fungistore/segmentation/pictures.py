"""Masks as pictures: a palette for any number of classes, indexed PNGs, and overlays on images."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from fungistore.annotations.palettes import voc_colour

PALETTE = 256  # colours that an indexed PNG has room for
SHOWN = 1024  # pixels of the longer side of a picture of an overlay
MADE_BY = ("Software", "fungi segment")  # a text in each PNG
OPACITY = 0.55  # of a class's colour over the image

Pixels = NDArray[np.uint8]
Labels = NDArray[np.uint16]


def palette(count: int) -> Pixels:
    """Return a colour [count, 3] for each class: Pascal VOC's, whose first is black."""
    return np.array([voc_colour(number) for number in range(count)], np.uint8)


def encoded_mask(mask: Labels, classes: int) -> bytes:
    """Return a mask as a PNG whose values are the classes: with the palette, or 16-bit grey.

    Args:
        mask: [height, width].
        classes: how many there are; more than 256 have no room in a palette.
    """
    if classes <= PALETTE:
        image = Image.fromarray(mask.astype(np.uint8), "P")
        image.putpalette(palette(PALETTE).tobytes())
    else:
        image = Image.fromarray(mask)
    return _encoded(image)


def overlaid(image: Pixels, mask: Labels, classes: int) -> Pixels:
    """Return a small image [h, w, 3] with the colours of a mask over it; void is left as it is.

    Args:
        image: [height, width, 3], as `shrunk` returns it.
        mask: of any size, of the same image.
        classes: numbers from here on are void.
    """
    small = nearest(mask, *image.shape[:2])
    is_class = small < classes
    colours = palette(classes)[np.where(is_class, small, 0)]
    mixed = (1 - OPACITY) * image + OPACITY * colours
    return np.where(is_class[..., None], mixed.round(), image).astype(np.uint8)


def shrunk(image: Pixels) -> Pixels:
    """Return an image whose longer side has no more than so many pixels as are shown."""
    picture = Image.fromarray(image)
    picture.thumbnail((SHOWN, SHOWN))
    return np.asarray(picture)


def side_by_side(panels: list[Pixels]) -> bytes:
    """Return pictures of one height as one PNG."""
    return _encoded(Image.fromarray(np.concatenate(panels, axis=1)))


def nearest(mask: Labels, height: int, width: int) -> Labels:
    """Return a mask at another size: each pixel is the one that its centre lies in."""
    rows = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (mask.shape[1] / width)).astype(np.int64)
    return mask[rows[:, None], columns]


def is_replaceable(path: Path) -> bool:
    """Whether there is nothing at a path but what was made here."""
    if not os.path.lexists(path):
        return True
    try:
        with path.open("rb") as stream, PngImageFile(stream) as image:
            key, maker = MADE_BY
            return image.info.get(key) == maker
    except (OSError, SyntaxError, ValueError):  # no PNG
        return False


def _encoded(image: Image.Image) -> bytes:
    buffer, text = io.BytesIO(), PngInfo()
    text.add_text(*MADE_BY)
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()
