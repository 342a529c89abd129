"""95 % intervals of metrics: of one run over its test rows, of several over their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from fungistore.evaluation.ordered import KAPPA
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.roc import roc_auc
from fungistore.randomness import Stream

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
NORMAL = float(norm.ppf(1 - TAIL))  # standard errors from an estimate to the end of its interval
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
    their test rows share what is special about them. Where all runs agree there is none.

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
    for name in [name for name in names if deviations[name] > 0]:
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

    Rows that are all right say nothing of their own spread: every resample is the same. A mean
    recall has then the interval of an accuracy, of as many rows as give it the variance that the
    mean recall of these classes has where all are recalled alike (as many as there are where the
    classes are of one size); kappa and the area have none.

    Args:
        truth: [n] labels.
        predictions: for the same n rows.
        metrics: that `classification_metrics` gave of them.
        ranks: of the classes from low to high, None where they have no order.
    """
    spread = {
        name: accuracy_interval(metrics[name], len(truth)) for name in COUNTED if name in metrics
    }
    if "roc_auc" in metrics and (area := roc_auc(truth, predictions)) and area.error > 0:
        half = NORMAL * area.error
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
    counts = np.bincount(truth)
    spread |= dict.fromkeys(
        RECALLS,
        _percentiles(recalls)
        or accuracy_interval(recalls[0], _equivalent_rows(counts[counts > 0])),
    )
    kappa = _percentiles(kappas) if kappas else None
    return spread | ({KAPPA: kappa} if kappa else {})


def _equivalent_rows(counts: NDArray[np.int64]) -> float:
    """Return of how many rows an accuracy varies as the mean recall of classes of some sizes."""
    return float(len(counts) ** 2 / (1 / counts).sum())


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


def _percentiles(values: list[float]) -> tuple[float, float] | None:
    """Return the interval of resampled values; None where they are all the same."""
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    return (float(low), float(high)) if max(values) > min(values) else None


def _within(name: str, low: float, high: float) -> tuple[float, float]:
    return max(low, -1.0 if name in SIGNED else 0.0), min(high, 1.0)


def accuracy_interval(accuracy: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of an accuracy over `count` rows.

    The accuracies that a normal test at this level does not reject (Wilson, 1927). Resampling would
    give all rows right an interval without width, and few rows one that is too narrow (Brown, Cai
    and DasGupta, 2001).
    """
    square = NORMAL**2 / count
    centre = (accuracy + square / 2) / (1 + square)
    half = float(np.sqrt(accuracy * (1 - accuracy) * square + square**2 / 4)) / (1 + square)
    low, high = min(centre - half, accuracy), max(centre + half, accuracy)  # rounding aside
    return max(low, 0.0), min(high, 1.0)
