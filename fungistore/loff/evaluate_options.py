"""What testing trained heads is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fungistore.evaluation.options import PLOT, EvaluationOptions, KappaChoice
from fungistore.headings import GENERAL
from fungistore.matrices.choices import FeatureSetChoice, RemovedChoice
from fungistore.settings import Setting, Settings
from fungistore.training.options import TimingChoice

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
    FeatureSetChoice, RemovedChoice, KappaChoice, TimingChoice, MeanChoice, EvaluationOptions
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
    plot: Annotated[
        Path | None,
        Setting(
            PLOT.format("the last line's confusion matrix"),
            default="none",
            metavar="FILE",
            heading=GENERAL,
        ),
    ] = None
