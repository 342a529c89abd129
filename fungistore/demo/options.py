"""What the demo is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from fungistore.headings import GENERAL
from fungistore.settings import Setting, Settings
from fungistore.type_words import Words

# 20 nearest neighbours need 20 rows beside the fifth that is held out; one of 500 is the photo
Images = Annotated[int, Ge(10), Le(499), Words("a whole number from 10 to 499")]


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Settings):
    """Settings of `fungi demo`."""

    heading = GENERAL

    of: Annotated[Literal["images", "texts", "sounds"], Setting("What the demo is made of.")] = (
        "images"
    )
    images: Annotated[Images, Setting("Images of each of the three classes, from 10 to 499.")] = 40
