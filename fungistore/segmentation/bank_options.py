"""What a memory bank is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MinLen

from fungistore.extraction.options import ReplayChoice
from fungistore.headings import FEATURES, STORAGE
from fungistore.indexing.options import AUTO, DEFAULT_TARGET_RECALL, Factory
from fungistore.matrices.choices import Features, FeatureSetChoice, GroupChoice, RemovedChoice
from fungistore.names import PlainName
from fungistore.settings import Count, Positive, Setting, Share

BANK_NAME = "bank"


@dataclass(frozen=True, kw_only=True)
class BankOptions(FeatureSetChoice, GroupChoice, RemovedChoice, ReplayChoice):
    """Settings of `fungi bank`."""

    heading = "Memory bank"

    features: Annotated[
        Features | None,
        Setting(
            "Of patches,patches/simclr.",
            default="all of patches that are there",
            metavar="NAMES",
            heading=FEATURES,
        ),
    ] = None
    block_weights: Annotated[
        Annotated[tuple[Positive, ...], MinLen(1)] | None,
        Setting("Of each feature beside the others.", default="equal", metavar="NUMBERS"),
    ] = None
    center: Annotated[
        Literal["none", "positions"],
        Setting("positions: take the mean patch token of each place away (INSID3)."),
    ] = "none"
    size: Annotated[
        Count | None,
        Setting("Patches in all, as many of each image.", default="all patches of all images"),
    ] = None
    epochs: Annotated[
        Count,
        Setting("Views of each image: the second and later ones are random crops and colours."),
    ] = 1
    void: Annotated[
        Literal["ignore", "background"],
        Setting("background: pixels of no class count as the first one (the reference code)."),
    ] = "ignore"
    name: Annotated[PlainName, Setting("Name of the bank.", metavar="NAME", names="bank")] = (
        BANK_NAME
    )
    factory: Annotated[
        Factory,
        Setting("Flat: exact; auto, IVF4096,Flat or any faiss factory string.", metavar="FACTORY"),
    ] = "Flat"
    target_recall: Annotated[
        Share, Setting("recall@10 up to which a search may look longer.", heading=STORAGE)
    ] = DEFAULT_TARGET_RECALL
    seed: Annotated[int, Setting("Of the choice of patches, and of the index.")] = 42

    @property
    def chooses(self) -> bool:
        """Whether the kind of index is to be chosen."""
        return self.factory == AUTO
