"""What the demo is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from fungistore.settings import Setting, Settings
from fungistore.type_words import Words

# at least as many as 20 nearest neighbours need, a fifth being held out; at most what there is
Images = Annotated[int, Ge(10), Le(500), Words("a whole number from 10 to 500")]


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Settings):
    """Settings of `fungi demo`."""

    images: Annotated[Images, Setting("Images of each of the three classes, from 10 to 500.")] = 40
