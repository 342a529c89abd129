"""Metrics of a classification, from ranked predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, recall_score

from fungistore.evaluation.ordered import KAPPA
from fungistore.evaluation.predictions import RANKED, Predictions
from fungistore.evaluation.roc import roc_auc


def classification_metrics(
    truth: NDArray[np.int32],
    predictions: Predictions,
    classes: int,
    ranks: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """Return fractions: accuracy, top-5 where it says something, and metrics per class.

    `mean_per_class_accuracy` is the mean over the classes that occur in the truth (the paper's for
    Flowers102, FGVC and Pets) and equals scikit-learn's balanced accuracy. `roc_auc`, each class
    against the others, is there where the probabilities of the classes in the truth are known,
    `quadratic_kappa` for classes with ranks; both where two classes or more occur in the truth.

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
    if (area := roc_auc(truth, predictions)) is not None:
        metrics["roc_auc"] = area.value
    if ranks is not None and len(present) > 1:
        value = cohen_kappa_score(
            ranks[truth], ranks[predicted], labels=np.arange(classes), weights="quadratic"
        )
        metrics[KAPPA] = float(value)
    return metrics
