"""Settings that many stages share: which features of a store, and which rows to test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from fungistore.headings import FEATURES, ROWS, SCORES
from fungistore.settings import Setting, Settings, Share

ONLY = "the only one"

Features = Annotated[tuple[str, ...], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class FeatureSetChoice(Settings):
    """Which feature set."""

    heading = FEATURES

    feature_set: Annotated[
        str | None,
        Setting(
            "Needed where the store has several.",
            default=ONLY,
            metavar="NAME",
            names="feature set",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BlockChoice(FeatureSetChoice):
    """Which of a feature set's blocks; None stands for all that are there."""

    heading = FEATURES

    features: Annotated[
        Features | None,
        Setting(
            "Of embeddings,kl,dino,simclr.",
            default="all that are there",
            metavar="NAMES",
            names="feature",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FeatureChoice(BlockChoice):
    """Blocks, or the coordinates of a stored PCA."""

    heading = FEATURES

    pca: Annotated[
        str | None,
        Setting(
            "A PCA made by `fungi pca`, instead.",
            default="the features as they are",
            metavar="NAME",
            names="pca",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class OrderChoice(Settings):
    """What comes before what, where class names are no numbers."""

    heading = SCORES

    order: Annotated[
        Annotated[tuple[str, ...], MinLen(2)] | None,
        Setting(
            "Classes from low to high.",
            flag="--order --class-order",
            default="by their numbers",
            metavar="NAMES",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SplitChoice(Settings):
    """Which rows to test on: those of the store's test split, or a part of each class."""

    heading = ROWS

    holdout: Annotated[
        Share | None,
        Setting(
            "Part of each class to test on.", default="the store's split, or 0.2 where it has none"
        ),
    ] = None
    seed: Annotated[int, Setting("Of the holdout and all other choices.")] = 0


@dataclass(frozen=True, kw_only=True)
class RemovedChoice(Settings):
    """What becomes of rows whose file is gone from the source."""

    heading = ROWS

    keep_removed: Annotated[bool, Setting("Use rows whose file is gone from the source, too.")] = (
        False
    )
