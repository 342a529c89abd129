"""Which files are images: by the end of their names, and by their first bytes.

Only decoders for pixels are listed. Pillow has others that nobody wants to run on a downloaded
data set, such as EPS, which starts Ghostscript.
"""

from __future__ import annotations

import re
from typing import IO

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

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "avif", "tif", "tiff"}
    | {"gif", "bmp", "dib", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jpx", "jpf", "jpc", "j2c"}
)

# The longest pattern below, with room to spare.
_MAGIC_LENGTH = 16

_DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = tuple(
    (re.compile(magic, re.DOTALL), decoder)
    for magic, decoder in (
        (rb"\xff\xd8\xff", JpegImageFile),
        (rb"\x89PNG\r\n\x1a\n", PngImageFile),
        (rb"RIFF....WEBP", WebPImageFile),
        (rb"....ftyp(avi[fs]|mif1|msf1)", AvifImageFile),
        (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
        (rb"GIF8[79]a", GifImageFile),
        (rb"BM", BmpImageFile),
        (rb"P[1-6]\s", PpmImageFile),
        (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImageFile),
    )
)


_HEIC = re.compile(rb"....ftyp(hei[cxms]|hev[cxms])", re.DOTALL)  # what phones make


def find_decoder(stream: IO[bytes]) -> type[ImageFile] | None:
    """Return the decoder for what the stream starts with, None if no image does; rewinds."""
    magic = stream.read(_MAGIC_LENGTH)
    stream.seek(0)
    return next((decoder for start, decoder in _DECODERS if start.match(magic)), None)


def is_heic(stream: IO[bytes]) -> bool:
    """Tell whether the stream starts as a HEIC does, which Pillow has no decoder for; rewinds."""
    magic = stream.read(_MAGIC_LENGTH)
    stream.seek(0)
    return bool(_HEIC.match(magic))
