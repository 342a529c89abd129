"""What `fungi table` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from annotated_types import MinLen

from fungistore.evaluation.options import KappaChoice
from fungistore.headings import SCORES
from fungistore.loff.evaluate_options import HEADS, MeanChoice
from fungistore.matrices.choices import RemovedChoice
from fungistore.settings import Setting
from fungistore.training.options import TimingChoice


@dataclass(frozen=True, kw_only=True)
class LoffTableOptions(RemovedChoice, KappaChoice, TimingChoice, MeanChoice):
    """Which heads and adapted backbones a table has, and what it says of them."""

    heading = HEADS

    lines: Annotated[
        tuple[str, ...],
        Setting(
            "A title, and heads, SET/NAME, or adaptations/NAME.",
            flag="--line",
            default="all, those that differ in seeds together",
            metavar="TITLE=NAME",
            is_repeated=True,
        ),
    ] = ()
    metrics: Annotated[
        Annotated[tuple[str, ...], MinLen(1)],
        Setting("Columns of each store.", metavar="NAMES", heading=SCORES),
    ] = ("accuracy", "mean_per_class_accuracy")

    def __post_init__(self) -> None:
        """Refuse a line without a title or a pattern."""
        super().__post_init__()
        for line in self.lines:
            title, _, pattern = line.partition("=")
            if not title or not pattern:
                self.refuse("lines", "TITLE=NAME", line, "--line 'LOFF-TA=ta-*'")


def common(options: LoffTableOptions) -> dict[str, Any]:
    """Return what every evaluation behind a table is asked, too."""
    kinds = (RemovedChoice, KappaChoice, TimingChoice)
    return {field.name: getattr(options, field.name) for kind in kinds for field in fields(kind)}
