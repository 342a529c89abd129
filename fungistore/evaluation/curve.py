"""A figure of few-shot scores: accuracy by the number of shots, a line for each combination."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungistore.evaluation.result import Evaluation, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "accuracy"
INCHES = (7.2, 4.8)
ASIDE = 0.04  # steps of the axis between lines, so that their bars can be told apart


def draw_curve(evaluation: Evaluation) -> Figure:
    """Return a figure of the accuracies of several numbers of shots, in the order asked for.

    Bars are the standard deviation of several runs, else the 95 % interval.

    Args:
        evaluation: `shots` in its protocol are several, and its scores, for each combination, one
            of each of them.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shots, scores = evaluation.protocol["shots"], evaluation.scores
    figure = Figure(figsize=INCHES, layout=ConstrainedLayoutEngine())
    axes = figure.subplots()
    for start in range(0, len(scores), len(shots)):
        line = scores[start : start + len(shots)]
        bars = [_bar(score) for score in line]
        axes.errorbar(
            [place + ASIDE * start / len(shots) for place in range(len(shots))],
            [100 * score.metrics[METRIC] for score in line],
            ([below for below, _ in bars], [above for _, above in bars]),
            marker="o",
            capsize=3,
            label=f"{' + '.join(line[-1].features)} ({line[-1].dim})",
        )
    axes.set_xticks(range(len(shots)), [str(one) for one in shots])
    axes.set_xlabel("shots: training rows of each class")
    axes.set_ylabel("accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _bar(score: Score) -> tuple[float, float]:
    """Return how far a score's bar goes below its point, and above, in points."""
    value, deviation = score.metrics[METRIC], score.metrics.get(f"{METRIC}_deviation")
    if deviation is None:
        low, high = score.spread[METRIC]
    else:  # which runs that all agree have without an interval
        low, high = value - deviation, value + deviation
    return 100 * max(value - low, 0), 100 * max(high - value, 0)
