"""What `fungi eval adapted` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fungistore.evaluation.options import EvaluationOptions, KappaChoice
from fungistore.headings import FEATURES
from fungistore.matrices.choices import RemovedChoice
from fungistore.settings import Setting
from fungistore.training.options import TimingChoice


@dataclass(frozen=True, kw_only=True)
class AdaptedOptions(RemovedChoice, KappaChoice, TimingChoice, EvaluationOptions):
    """Test adapted backbones by the classifiers of their training.

    It reads the embeddings that fungi extract --adapter has made; no model runs, but to be timed.
    A pattern of names averages over the feature sets that it matches, such as seeds. Test rows are
    those that the adaptation's own split has left out. What training took is told.

    \b
    Examples:
      fungi eval adapted pets.fungi
      fungi eval adapted pets.fungi --feature-set 'deit*-vpt' \\
          --feature-set 'deit*-full'
    """

    function = "fungistore.adaptation.evaluate:evaluate_adapted"
    heading = FEATURES
    tell = ("adapted",)

    feature_sets: Annotated[
        tuple[str, ...],
        Setting(
            "A name or pattern, each a line.",
            flag="--feature-set",
            default="all of adapted backbones",
            metavar="NAME",
            names="feature set",
            is_repeated=True,
        ),
    ] = ()
