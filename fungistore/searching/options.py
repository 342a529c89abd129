"""What a search is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fungistore.extraction.options import ReplayChoice
from fungistore.joint.options import TextChoice
from fungistore.matrices.choices import ONLY, FeatureSetChoice, RemovedChoice
from fungistore.settings import Count, Setting


@dataclass(frozen=True, kw_only=True)
class SearchOptions(FeatureSetChoice, RemovedChoice, TextChoice, ReplayChoice):
    """Settings of `fungi search`."""

    heading = "Search"

    index: Annotated[
        str | None,
        Setting("Needed where the store has several.", default=ONLY, metavar="NAME", names="index"),
    ] = None
    k: Annotated[Count, Setting("Neighbours of each query.", flag="--k -k")] = 10
