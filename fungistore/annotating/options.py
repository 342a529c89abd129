"""How masks are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fungistore.choices import Orientation
from fungistore.settings import Setting, Settings


@dataclass(frozen=True, kw_only=True)
class AnnotateOptions(Settings):
    """Settings of `fungi annotate`.

    Those that are not given are what the store has, then what its source says.
    """

    heading = "Masks"

    classes: Annotated[
        tuple[str, ...] | None,
        Setting(
            "Names of the classes by index: a,b,c, or a file of a line each.",
            default="the source's, or 0, 1, ...",
            metavar="NAMES",
        ),
    ] = None
    void: Annotated[
        int | str | None,
        Setting(
            "The value that stands for not judged, its name in --colors, or none.",
            default="the source's; 255, of 16 bits 65535",
            metavar="N|none",
        ),
    ] = None
    colors: Annotated[
        str | None,
        Setting(
            "Masks are in colours: a file of name r g b (text, .csv or .json), or voc.",
            default="values are indices",
            metavar="FILE|voc",
        ),
    ] = None
    orientation: Annotated[
        Orientation | None,
        Setting(
            "Masks belong to images as they are seen, or as stored before their EXIF orientation.",
            default="upright",
            metavar="[upright|stored]",
        ),
    ] = None
    on_error: Annotated[
        Literal["skip", "fail"], Setting("Masks that cannot be used: skip (and list), or fail.")
    ] = "skip"
