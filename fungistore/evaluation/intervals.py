"""95 % intervals of metrics: of one run over its test rows, of several over their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm, t

from fungistore.evaluation.ordered import KAPPA
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.roc import roc_auc
from fungistore.randomness import Stream

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 300  # of a bootstrap: 50,000 rows then take a second at most
COUNTED = ("accuracy", "top5_accuracy")  # parts of the rows
SIGNED = (KAPPA, "ari")  # below 0 where chance does better
RECALLS = ("mean_per_class_accuracy", "balanced_accuracy")  # two names of one
Spread = dict[str, tuple[float, float]]


def over_runs(
    measured: Sequence[Mapping[str, float]], intervals: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, float], Spread]:
    """Return the mean of each metric that all runs have, and the spread of each.

    Several runs have, among the metrics, the standard deviation of each from run to run
    (`NAME_deviation`). Their spread is the interval of the mean over runs like these: Student's t
    of their seeds, within what the metric can be. It knows nothing of the rows: seeds that share
    their test rows share what is special about them.

    Args:
        measured: of each run.
        intervals: of one run; those of several come from the runs.
    """
    names = [name for name in measured[0] if all(name in metrics for metrics in measured)]
    values = {name: np.array([metrics[name] for metrics in measured]) for name in names}
    means = {name: float(each.mean()) for name, each in values.items()}
    count = len(measured)
    if count == 1:
        return means, dict(intervals)
    deviations = {name: float(each.std(ddof=1)) for name, each in values.items()}
    spread = {}
    for name in names:
        half = float(t.ppf(1 - TAIL, count - 1)) * deviations[name] / np.sqrt(count)
        spread[name] = _within(name, means[name] - half, means[name] + half)
    return means | {f"{name}_deviation": value for name, value in deviations.items()}, spread


def metric_intervals(
    truth: NDArray[np.int32],
    predictions: Predictions,
    metrics: Mapping[str, float],
    ranks: NDArray[np.int64] | None = None,
) -> Spread:
    """Return the interval of each metric of one run, over the test rows that it might have had.

    Of accuracies it is `accuracy_interval`; of the area under the curve the normal one of DeLong's
    standard error, within 0 and 1; of mean recall and quadratic kappa the percentile bootstrap's of
    300 resamples of the rows, drawn by the stream "bootstrap", so the same each time.

    Args:
        truth: [n] labels.
        predictions: for the same n rows.
        metrics: that `classification_metrics` gave of them.
        ranks: of the classes from low to high, None where they have no order.
    """
    spread = {
        name: accuracy_interval(metrics[name], len(truth)) for name in COUNTED if name in metrics
    }
    if "roc_auc" in metrics and (area := roc_auc(truth, predictions)) is not None:
        half = float(norm.ppf(1 - TAIL)) * area.error
        spread["roc_auc"] = _within("roc_auc", area.value - half, area.value + half)
    hits, predicted = predictions.labels == truth, predictions.labels
    recalls, kappas = [], []
    moments = None if ranks is None or KAPPA not in metrics else _moments(ranks, truth, predicted)
    for weights in _resampled(len(truth)):
        there = np.bincount(truth, weights)
        found = np.bincount(truth, weights * hits)
        recalls.append(float((found[there > 0] / there[there > 0]).mean()))
        if moments is not None:
            kappas.append(_kappa(weights @ moments / len(truth)))
    spread |= dict.fromkeys(RECALLS, _percentiles(recalls))
    return spread | ({KAPPA: _percentiles(kappas)} if kappas else {})


def _resampled(count: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each row is in each resample."""
    stream = Stream(0, "bootstrap")
    for _ in range(RESAMPLES):
        drawn = (stream.uniform(count) * count).astype(np.int64)
        yield np.bincount(drawn, minlength=count).astype(np.float64)


def _moments(
    ranks: NDArray[np.int64], truth: NDArray[np.int32], predicted: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return, of each row, what a quadratic kappa is a function of the means of [n, 5]."""
    a, b = ranks[truth].astype(np.float64), ranks[predicted].astype(np.float64)
    return np.stack([a, b, a * a, b * b, (a - b) ** 2], axis=1)


def _kappa(means: NDArray[np.float64]) -> float:
    """Return 1 - observed / expected disagreement; rows that all agree on one class have 1."""
    a, b, aa, bb, observed = means.tolist()
    expected = (aa - a * a) + (bb - b * b) + (a - b) ** 2
    return 1 - observed / expected if expected > 0 else 1.0


def _percentiles(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _within(name: str, low: float, high: float) -> tuple[float, float]:
    return max(low, -1.0 if name in SIGNED else 0.0), min(high, 1.0)


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 % interval of an accuracy over `count` rows.

    Resampling hits and misses gives a binomial count, so its percentiles need no random numbers.
    """
    low, high = binom.ppf([TAIL, 1 - TAIL], count, accuracy) / count
    return float(low), float(high)


def difference_interval(gained: int, lost: int, count: int) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 % interval of the difference of two paired accuracies.

    Resampling the rows gives a sum of `count` steps of +1, 0 and -1, whose distribution is the
    `count`-th power of one step's, by a Fourier transform: again without random numbers.

    Args:
        gained: rows that the second gets right and the first does not.
        lost: the other way round.
        count: rows in all.
    """
    step = np.zeros(2 * count + 1)  # sums from -count to count, those below 0 at the end
    step[[0, 1, -1]] = np.array([count - gained - lost, gained, lost]) / count
    chances = np.fft.irfft(np.fft.rfft(step) ** count, len(step))
    below = np.roll(chances, count).cumsum()
    low, high = (np.searchsorted(below, [TAIL, 1 - TAIL]) - count) / count
    return float(low), float(high)
