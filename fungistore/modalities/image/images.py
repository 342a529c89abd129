"""The modality of images: RGB pixels, from any format that Pillow decodes and people trust."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fungistore.errors import ImageError
from fungistore.modalities.image.decode import MAX_PIXELS, decode, rescue
from fungistore.modalities.image.formats import IMAGE_SUFFIXES
from fungistore.modalities.modality import IMAGE
from fungistore.modalities.reading import uri_of_file

if TYPE_CHECKING:
    from fungistore.modalities.views import ViewRecipe

THUMBNAIL = 320  # pixels of the longer side: sharp at 160 CSS pixels on a dense screen
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Images:
    """Images; an item is uint8 pixels [height, width, 3], RGB, upright.

    Attributes:
        max_pixels: a header that declares more is refused before a pixel is decoded.
    """

    max_pixels: int = MAX_PIXELS

    name: ClassVar[str] = IMAGE
    item: ClassVar[str] = "image"
    items: ClassVar[str] = "images"
    error: ClassVar[type[ImageError]] = ImageError
    suffixes: ClassVar[frozenset[str]] = IMAGE_SUFFIXES
    columns: ClassVar[tuple[str, ...]] = ()

    def read(self, stream: IO[bytes]) -> NDArray[np.uint8]:
        """Return the pixels; see `decode`."""
        return decode(stream, self.max_pixels)

    def rescue(self, stream: IO[bytes]) -> NDArray[np.uint8]:
        """Return the pixels of an image that ends too early; see `rescue`."""
        return rescue(stream, self.max_pixels)

    def blank(self) -> NDArray[np.uint8]:
        """Return a few black pixels."""
        return np.zeros((8, 8, 3), np.uint8)

    def recipe(self, request: object, encoder: Any, view_size: str | int) -> ViewRecipe | None:
        """Return the views that a request becomes; see `image_recipe`."""
        from fungistore.modalities.image.recipes import image_recipe

        return image_recipe(request, encoder, view_size)

    def query(self, text: str) -> str:
        """Return the uri of the image file at a path."""
        return uri_of_file(text, self.item)

    def show(self, item: NDArray[np.uint8], caption: str) -> str:
        """Return a small JPEG as an <img> of its own."""
        image = Image.fromarray(item)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        return f'<img loading="lazy" src="{source}" alt="{escape(caption, quote=True)}">'
