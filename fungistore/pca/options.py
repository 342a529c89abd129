"""What a PCA is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fungistore.choices import ReductionKind, StorageDtype
from fungistore.headings import ROWS, STORAGE
from fungistore.matrices.choices import BlockChoice, RemovedChoice, SplitChoice
from fungistore.names import PlainName
from fungistore.settings import Count, Setting


@dataclass(frozen=True, kw_only=True)
class PcaOptions(BlockChoice, SplitChoice, RemovedChoice):
    """Settings of `fungi pca`; with a holdout, evaluations with the same one test on the rest."""

    heading = "PCA"

    reduction: Annotated[
        ReductionKind,
        Setting("pca, or random: a projection drawn by --seed, fitted to no rows."),
    ] = "pca"
    dim: Annotated[
        Count | None, Setting("Components to keep.", default="512, or what the data determine")
    ] = None
    fit_split: Annotated[
        str, Setting("Fit on this split, or all.", metavar="NAME", heading=ROWS)
    ] = "train"
    name: Annotated[
        PlainName | None,
        Setting("Name of the PCA.", default="its features and dim", metavar="NAME"),
    ] = None
    storage_dtype: Annotated[StorageDtype, Setting("Of the coordinates.", heading=STORAGE)] = (
        "float16"
    )

    def __post_init__(self) -> None:
        """Refuse rows that nothing is fitted on, and groups that nothing is held out of."""
        super().__post_init__()
        if self.reduction == "random" and (self.holdout is not None or self.fit_split != "train"):
            self.refuse(
                "reduction",
                "no --holdout and no --fit-split: a random projection is fitted to no rows",
                self.reduction,
                "leave them out: nothing of any row is in it",
            )
        if self.group is not None and self.holdout is None:
            expected = "nothing without --holdout: the PCA is fitted on a split, or on all rows"
            self.refuse("group", expected, self.group, "--holdout 0.2, or leave out --group")
