"""What testing trained heads is asked to do, alone and as a table of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import MinLen

from fungistore.evaluation.options import PLOT, EvaluationOptions, KappaChoice
from fungistore.extraction.options import ReplayChoice
from fungistore.headings import GENERAL, SCORES, SPEED
from fungistore.matrices.choices import FeatureSetChoice, RemovedChoice
from fungistore.settings import Count, Setting, Settings

Flip = Literal["hflip", "vflip", "flips"]
HEADS = "Heads"


@dataclass(frozen=True, kw_only=True)
class MeanChoice(Settings):
    """Whose probabilities are averaged."""

    heading = HEADS

    ensemble: Annotated[
        bool, Setting("Average the probabilities of the heads that a pattern names, too.")
    ] = False
    tta: Annotated[
        tuple[Flip, ...],
        Setting(
            "Average over a feature map and its hflip, vflip, or all flips.",
            default="as it is",
            metavar="NAMES",
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class LoffOptions(
    FeatureSetChoice, RemovedChoice, KappaChoice, ReplayChoice, MeanChoice, EvaluationOptions
):
    """Test trained heads on the rows that their splits left out.

    A pattern of names averages over the heads that it matches, such as seeds; with --ensemble,
    one more line is of the mean of their probabilities. Metrics have their standard deviation over
    the heads, and 95 % intervals. What training took is told, and how fast the heads are.

    \b
    Examples:
      fungi eval loff pets.fungi --head vit-xs-ta
      fungi eval loff pets.fungi --head 'plain-*' --head 'ta-*' --plot c.png
      fungi eval loff pets.fungi --head 'ta-*' --ensemble --tta hflip
    """

    function = "fungistore.loff.evaluate:evaluate_loff"
    heading = HEADS
    tell = ("heads",)

    heads: Annotated[
        tuple[str, ...],
        Setting(
            "A name or pattern, each a line.",
            flag="--head",
            default="the only head",
            metavar="NAME",
            names="head",
            is_repeated=True,
        ),
    ] = ()
    time_backbone: Annotated[
        Count | None,
        Setting(
            "Run the backbone on so many test images, to time it.",
            default="its speed is not told",
            heading=SPEED,
        ),
    ] = None
    plot: Annotated[
        Path | None,
        Setting(
            PLOT.format("the last line's confusion matrix"),
            default="none",
            metavar="FILE",
            heading=GENERAL,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class LoffTableOptions(RemovedChoice, KappaChoice, ReplayChoice, MeanChoice):
    """Which heads a table has, and what it says of them."""

    heading = HEADS

    lines: Annotated[
        tuple[str, ...],
        Setting(
            "A title and a pattern of heads, or of SET/NAME, each a line.",
            flag="--line",
            default="all heads, those that differ in seeds together",
            metavar="TITLE=NAME",
            is_repeated=True,
        ),
    ] = ()
    metrics: Annotated[
        Annotated[tuple[str, ...], MinLen(1)],
        Setting("Columns of each store.", metavar="NAMES", heading=SCORES),
    ] = ("accuracy", "mean_per_class_accuracy")
    time_backbone: Annotated[
        Count | None,
        Setting(
            "Run the backbones on so many test images, to time them.",
            default="images/s of a backbone are not told",
            heading=SPEED,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse a line without a title or a pattern."""
        super().__post_init__()
        for line in self.lines:
            title, _, pattern = line.partition("=")
            if not title or not pattern:
                self.refuse("lines", "TITLE=NAME", line, "--line 'LOFF-TA=ta-*'")
