"""Formats that packages of their own decode: HEIC, JPEG XL, DICOM; absent, they are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import IO, Any

from fungistore.errors import ImageError
from fungistore.extras import install_command

MAGIC_LENGTH = 132  # a DICOM file says what it is behind 128 bytes


@dataclass(frozen=True)
class ExtraFormat:
    """A format that needs a package.

    Attributes:
        name: as messages call it.
        magic: what its files begin with.
        suffixes: of its files.
        module: that must be there.
        package: to install, and `extra`, which of ours lists it.
        opener: "module:name" of what opens a stream as a Pillow image.
    """

    name: str
    magic: re.Pattern[bytes]
    suffixes: frozenset[str]
    module: str
    package: str
    extra: str
    opener: str

    @property
    def is_here(self) -> bool:
        """Whether its package is installed; nothing is imported."""
        return find_spec(self.module) is not None

    def open(self, stream: IO[bytes]) -> Any:
        """Open a file as a Pillow image.

        Raises:
            ImageError: its package is not installed.
        """
        if not self.is_here:
            raise ImageError(f"{self.name} is not read without {self.how}")
        module, _, name = self.opener.partition(":")
        return getattr(import_module(module), name)(stream)

    @property
    def how(self) -> str:
        """What to install."""
        return f"{self.package}: {install_command(self.extra, self.package)}"


FORMATS = (
    ExtraFormat(
        "HEIC",
        # what phones make; other programs may say so in the list of brands alone
        re.compile(rb"....ftyp(m[is]f1....(....)*?)?(hei[cxms]|hev[cxms])", re.DOTALL),
        frozenset({"heic", "heif", "hif"}),
        "pillow_heif",
        "pillow-heif",
        "heic",
        "pillow_heif.as_plugin:HeifImageFile",
    ),
    ExtraFormat(
        "JPEG XL",
        re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", re.DOTALL),
        frozenset({"jxl"}),
        "pillow_jxl",
        "pillow-jxl-plugin",
        "jxl",
        "pillow_jxl.JpegXLImagePlugin:JXLImageFile",
    ),
    ExtraFormat(
        "DICOM",
        re.compile(rb".{128}DICM", re.DOTALL),
        frozenset({"dcm", "dicom"}),
        "pydicom",
        "pydicom",
        "dicom",
        "fungistore.modalities.image.dicom:open_dicom",
    ),
)
RAW = "RAW is not read: develop it, to TIFF or JPEG"
# What nobody's pixels are without a development, a choice of a moment or of a page.
REFUSED: Mapping[str, re.Pattern[bytes]] = {
    RAW: re.compile(
        rb"(II\x2a\0....CR\x02|....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\0|\0MRM)", re.DOTALL
    ),
    "a video, not an image: take its frames out, as with ffmpeg": re.compile(
        rb"(....ftyp(isom|mp4|M4V|qt  |avc1|3gp)|RIFF....AVI |\x1aE\xdf\xa3)", re.DOTALL
    ),
    "PDF is not read: render its pages, as with pdftoppm": re.compile(rb"%PDF-"),
    "SVG is not read: render it to PNG": re.compile(rb"\s*(<\?xml[^>]*>\s*)?<(svg|!DOCTYPE svg)"),
    "an HTML page, not an image: what was downloaded is an error or a login page": re.compile(
        rb"\s*<(!doctype html|html)", re.IGNORECASE
    ),
}


def find_extra(magic: bytes) -> ExtraFormat | None:
    """Return the format that some first bytes are of."""
    return next((one for one in FORMATS if one.magic.match(magic)), None)


def why_refused(magic: bytes) -> str | None:
    """Return why content of some first bytes is not read; None where nothing is known."""
    return next((why for why, start in REFUSED.items() if start.match(magic)), None)


def extra_suffixes() -> frozenset[str]:
    """Return the suffixes of formats whose packages are installed."""
    return frozenset().union(*(one.suffixes for one in FORMATS if one.is_here))


def absent_format(suffix: str) -> ExtraFormat | None:
    """Return the format of a suffix whose package is not installed."""
    return next((one for one in FORMATS if suffix in one.suffixes and not one.is_here), None)
