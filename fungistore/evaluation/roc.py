"""The area under the ROC curve of each class against the others, and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fungistore.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Area:
    """An area under the curve.

    Attributes:
        value: between 0 and 1.
        error: its standard error.
    """

    value: float
    error: float


def roc_auc(truth: NDArray[np.int32], predictions: Predictions) -> Area | None:
    """Return the mean over the classes in the truth of each one's area against all others.

    That is scikit-learn's `roc_auc_score(multi_class="ovr", average="macro")`; of two classes it
    is the area of the second. The standard error is DeLong's (DeLong et al., Biometrics 1988): that
    of the mean of what each row adds, which for the mean over classes is the mean of its parts.

    Args:
        truth: [n] labels.
        predictions: for the same n rows.

    Returns:
        None where fewer than two classes occur, or one whose probabilities are not known.
    """
    present = np.unique(truth)
    if predictions.chances is None or len(present) < 2:
        return None
    places = np.searchsorted(predictions.columns, present)
    is_known = places < len(predictions.columns)
    if not is_known.all() or (predictions.columns[places] != present).any():
        return None
    pairs = list(zip(present.tolist(), places.tolist(), strict=True))
    pairs = pairs[1:] if len(predictions.columns) == 2 else pairs
    total, parts = 0.0, np.zeros(len(truth))
    for label, place in pairs:
        area, added = _one_against_others(
            truth == label, np.ascontiguousarray(predictions.chances[:, place])
        )
        total += area
        parts += added
    error = float(parts.std()) / len(pairs) / np.sqrt(len(truth))
    return Area(total / len(pairs), float(error))


def _one_against_others(
    is_class: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[float, NDArray[np.float64]]:
    """Return an area, and what each row [n] adds to it beyond the mean, times n.

    A row of the class adds the part of others that it stands above; one of the others, the part of
    the class that stands above it; a tie is half.
    """
    own = np.sort(scores[is_class])  # of many classes these are few, and all that is sorted
    below = np.searchsorted(own, scores[~is_class], "left")  # of the class, below each other row
    reached = np.searchsorted(own, scores[~is_class], "right")  # or as high as it
    above = np.empty(len(scores))
    above[~is_class] = 1 - (below + reached) / 2 / len(own)
    place = np.searchsorted(own, scores[is_class], "left")
    under = [np.bincount(one, minlength=len(own) + 1).cumsum()[place] for one in (below, reached)]
    above[is_class] = (under[0] + under[1]) / 2 / len(below)
    area = float(above[is_class].mean())
    share = np.where(is_class, is_class.mean(), 1 - is_class.mean())
    return area, (above - area) / share
