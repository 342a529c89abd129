"""Which files are images: by the end of their names, and by their first bytes.

Only decoders for pixels are listed. Pillow has others that nobody wants to run on a downloaded
data set, such as EPS, which starts Ghostscript.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import IO, Any

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from fungistore.errors import ImageError
from fungistore.modalities.image.extra_formats import (
    MAGIC_LENGTH,
    extra_suffixes,
    find_extra,
    why_refused,
)

IMAGE_SUFFIXES = extra_suffixes() | frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "avif", "tif", "tiff"}
    | {"gif", "bmp", "dib", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jpx", "jpf", "jpc", "j2c"}
)

REDUCED_COPY, OTHER_IMAGES, DNG_VERSION = 254, 330, 50706  # tags of TIFF

_DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = tuple(
    (re.compile(magic, re.DOTALL), decoder)
    for magic, decoder in (
        (rb"\xff\xd8\xff", JpegImageFile),
        (rb"\x89PNG\r\n\x1a\n", PngImageFile),
        (rb"RIFF....WEBP", WebPImageFile),
        (rb"....ftyp(avi[fs]|m[is]f1....(....)*?avi[fs])", AvifImageFile),
        (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
        (rb"GIF8[79]a", GifImageFile),
        (rb"BM", BmpImageFile),
        (rb"P[1-6]\s", PpmImageFile),
        (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImageFile),
    )
)


Decoder = Callable[[IO[bytes]], Any]  # to a Pillow image, or what has its size and `load`


def find_decoder(stream: IO[bytes]) -> Decoder:
    """Return the decoder for what the stream starts with; rewinds.

    Raises:
        ImageError: there is none, or the package that has it is not installed.
    """
    magic = stream.read(MAGIC_LENGTH)
    stream.seek(0)
    if why := why_refused(magic):
        raise ImageError(why)
    if found := next((decoder for start, decoder in _DECODERS if start.match(magic)), None):
        return found
    if extra := find_extra(magic):
        return extra.open
    raise ImageError("the content is not an image in a known format")


def is_raw(image: Any) -> bool:
    """Whether a TIFF is a camera's RAW: what it has at first is a small copy, its pixels elsewhere.

    Of Nikon, Sony and Adobe's DNG, whose files begin as any TIFF does.
    """
    tags = getattr(image, "tag_v2", {})
    is_copy = bool(tags.get(REDUCED_COPY, 0) & 1) and OTHER_IMAGES in tags
    return is_copy or DNG_VERSION in tags
