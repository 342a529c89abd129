"""Metrics of a classification, from ranked predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score, recall_score, roc_auc_score

CONFIDENCE = 0.95
RANKED = 5  # labels that are kept of each row: top-5 accuracy needs no more


@dataclass(frozen=True)
class Predictions:
    """What a classifier said of each test row.

    Attributes:
        ranked: [n, r] int32 labels, the most likely first; -1 where fewer were found likely.
        positive: [n] float64, of two classes, how likely the second is; None for more classes.
        pair: these two labels.
    """

    ranked: NDArray[np.int32]
    positive: NDArray[np.float64] | None = None
    pair: tuple[int, int] = (0, 1)

    @property
    def labels(self) -> NDArray[np.int32]:
        """The predicted labels [n]."""
        return self.ranked[:, 0]

    @classmethod
    def of_probabilities(
        cls, chances: NDArray[np.floating], labels: NDArray[np.integer]
    ) -> Predictions:
        """Rank the labels of probabilities [n, c], one column a label; ties to the first column."""
        order = np.argsort(-chances, axis=1, kind="stable")[:, :RANKED]
        said = labels[order].astype(np.int32)
        if len(labels) != 2:
            return cls(said)
        return cls(said, chances[:, 1].astype(np.float64), (int(labels[0]), int(labels[1])))

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Return the predictions of consecutive rows as one."""
        positive = [part.positive for part in parts if part.positive is not None]
        return cls(
            np.concatenate([part.ranked for part in parts]),
            np.concatenate(positive) if positive else None,
            parts[0].pair,
        )


def classification_metrics(
    truth: NDArray[np.int32],
    predictions: Predictions,
    classes: int,
    ranks: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Return fractions: accuracy, top-5 where it says something, and metrics per class.

    `mean_per_class_accuracy` is the mean over the classes that occur in the truth (the paper's for
    Flowers102, FGVC and Pets) and equals scikit-learn's balanced accuracy. `roc_auc` is there for
    two classes that both occur in the truth, `quadratic_kappa` for classes with ranks of which two
    or more do.

    Args:
        truth: [n] labels.
        predictions: for the same n rows.
        classes: number of classes.
        ranks: of the classes from low to high, [classes]; None where they have no order.
    """
    predicted = predictions.labels
    present = np.unique(truth)
    recall = float(recall_score(truth, predicted, labels=present, average="macro"))
    metrics = {"accuracy": float((predicted == truth).mean())}
    if classes > RANKED:
        hits = (predictions.ranked[:, :RANKED] == truth[:, None]).any(axis=1)
        metrics["top5_accuracy"] = float(hits.mean())
    metrics["mean_per_class_accuracy"] = metrics["balanced_accuracy"] = recall
    if predictions.positive is not None and tuple(present.tolist()) == predictions.pair:
        metrics["roc_auc"] = float(roc_auc_score(truth, predictions.positive))
    if ranks is not None and len(present) > 1:
        value = cohen_kappa_score(
            ranks[truth], ranks[predicted], labels=np.arange(classes), weights="quadratic"
        )
        metrics["quadratic_kappa"] = float(value)
    return metrics


def over_runs(
    measured: Sequence[Mapping[str, float]], tested: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the mean of each metric that all runs have, and the spread of the accuracy.

    One run has `accuracy_interval` of its `tested` rows; several have, among the metrics, the
    accuracy's standard deviation from run to run.
    """
    names = [name for name in measured[0] if all(name in metrics for metrics in measured)]
    means = {name: float(np.mean([metrics[name] for metrics in measured])) for name in names}
    if len(measured) == 1:
        return means, {"accuracy": accuracy_interval(means["accuracy"], tested)}
    means["accuracy_deviation"] = float(np.std([m["accuracy"] for m in measured], ddof=1))
    return means, {}


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 % interval of an accuracy over `count` rows.

    Resampling hits and misses gives a binomial count, so its percentiles need no random numbers.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = binom.ppf([tail, 1 - tail], count, accuracy) / count
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
    tail = (1 - CONFIDENCE) / 2
    low, high = (np.searchsorted(below, [tail, 1 - tail]) - count) / count
    return float(low), float(high)
