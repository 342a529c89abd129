"""What the demo is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fungistore.settings import Count, Setting, Settings


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Settings):
    """Settings of `fungi demo`."""

    images: Annotated[Count, Setting("Images of each of the three classes, 500 at most.")] = 40
