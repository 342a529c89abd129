"""What a bank is asked: how it predicts, which masks score it, and where those of new images go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import MinLen

from fungistore.evaluation.options import EvaluationOptions
from fungistore.extraction.options import ReplayChoice
from fungistore.headings import DATA, ROWS, SCORES
from fungistore.matrices.choices import ONLY, FeatureSetChoice, RemovedChoice, RepeatChoice
from fungistore.settings import Count, Positive, Setting, Settings

NEIGHBOURS = 30  # FUNGI, table 23; 90 where few images are known
BETA = 0.02  # the same; 0.1 where few images are known
SIDE = 512  # pixels that masks are compared at, as in the paper
BANK = "In-context segmentation"

Match = Literal["direct", "hungarian"]


@dataclass(frozen=True, kw_only=True)
class AttentionChoice(Settings):
    """How a token's labels follow from its neighbours'."""

    heading = BANK

    k: Annotated[Count, Setting("Neighbours of each patch; 90 with few shots.")] = NEIGHBOURS
    beta: Annotated[
        Positive, Setting("Temperature of the softmax of cosines; 0.1 with few shots.")
    ] = BETA


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(
    AttentionChoice, FeatureSetChoice, RepeatChoice, RemovedChoice, EvaluationOptions
):
    """Predict masks from a memory bank, and score them.

    Nothing is trained: each patch of an image takes the labels of the nearest patches of the bank
    (`fungi bank`). Void pixels do not count. Several banks are scored on the same images. Tests on
    the store's split test, or on val, or on what `fungi bank` has held out.

    \b
    Examples:
      fungi eval segment scenes.fungi
      fungi eval segment scenes.fungi --bank plain,gradients --size own
      fungi eval segment scenes.fungi --shots 4 --split-seeds 3 --k 90 --beta 0.1
      fungi eval segment scenes.fungi --match hungarian --json
    """

    function = "fungistore.segmentation.evaluate:evaluate_segmentation"
    heading = BANK
    tell = ("bank",)

    banks: Annotated[
        Annotated[tuple[str, ...], MinLen(1)] | None,
        Setting(
            "One bank, or several side by side.",
            flag="--bank",
            default=ONLY,
            metavar="NAMES",
            names="bank",
        ),
    ] = None
    match: Annotated[
        Match,
        Setting("hungarian: classes stand for those that they fit best.", heading=SCORES),
    ] = "direct"
    size: Annotated[
        Literal["own"] | Count,
        Setting("Side that masks are compared at; own: as they are.", heading=SCORES),
    ] = SIDE
    shots: Annotated[
        Count | None,
        Setting("Images of the bank, chosen at random.", default="all", heading=ROWS),
    ] = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant together."""
        super().__post_init__()
        is_drawn = self.shots is not None
        self.refuse_the_same(method=False, rows=is_drawn, otherwise="without --shots")
        if self.banks is not None and len(set(self.banks)) < len(self.banks):
            self.refuse("banks", "each bank once", ",".join(self.banks))


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(AttentionChoice, FeatureSetChoice, ReplayChoice):
    """Settings of `fungi segment`."""

    heading = BANK

    bank: Annotated[
        str | None,
        Setting("Needed where the store has several.", default=ONLY, metavar="NAME", names="bank"),
    ] = None
    out: Annotated[
        Path,
        Setting("Folder for the masks and pictures.", default="masks", metavar="DIR", heading=DATA),
    ] = Path("masks")
    html: Annotated[
        Path | None,
        Setting("Write one page of all pictures.", default="none", metavar="FILE", heading=DATA),
    ] = None
