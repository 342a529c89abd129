"""What a correction of labels is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fungistore.settings import Setting, Settings


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Settings):
    """Settings of `fungi label`."""

    heading = "Table"

    unknown: Annotated[
        Literal["refuse", "skip"], Setting("Rows with ids that the store does not know.")
    ] = "refuse"
