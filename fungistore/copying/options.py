"""Settings of `fungi copy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from fungistore.headings import FEATURES
from fungistore.settings import Setting, Settings


@dataclass(frozen=True, kw_only=True)
class CopyOptions(Settings):
    """What is copied of a store."""

    heading = FEATURES

    features: Annotated[
        Annotated[tuple[str, ...], MinLen(1)] | None,
        Setting("Only these, such as embeddings,kl,pca/main.", default="all", metavar="NAMES"),
    ] = None
    feature_set: Annotated[
        str | None,
        Setting("Only this one.", default="all", metavar="NAME", names="feature set"),
    ] = None
