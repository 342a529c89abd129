"""How well masks are predicted: from the pixels of each pair of classes, image after image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fungistore.annotations.masks import VOID
from fungistore.randomness import Stream

Match = Literal["direct", "hungarian"]
Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

METRICS = ("miou", "pixel_accuracy", "mean_class_accuracy", "frequency_weighted_iou")
RESAMPLES = 1000
RESAMPLES_AT_ONCE = 50
TAIL = 2.5  # per cent on each side of a 95 % interval


def confusion_of(truth: NDArray[np.uint16], said: NDArray[np.uint16], classes: int) -> Counts:
    """Return how many pixels [classes, classes] of each true class are said to be of each.

    Pixels that are void in the truth are of no class, whatever is said of them.
    """
    judged = truth != VOID
    pairs = truth[judged].astype(np.int64) * classes + said[judged]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class MaskScores:
    """What a table of pixels says.

    Attributes:
        iou: [classes] intersection over union; NaN for classes that are neither in the truth nor
            in what was said.
        metrics: fractions: `miou`, `pixel_accuracy`, `mean_class_accuracy` and
            `frequency_weighted_iou`.
    """

    iou: Numbers
    metrics: dict[str, float]


def mask_scores(confusion: Counts, match: Match = "direct") -> MaskScores:
    """Score a table of pixels.

    `miou` is the mean over the classes that occur in the truth or in the prediction, in any image;
    a class that occurs in neither is left out, rather than taken for 0 or 1. With `hungarian`,
    predicted classes are first given to true ones so that the sum of the IoUs is largest, as for
    clusters (FUNGI's reference code); what is left without a partner has an IoU of 0.

    Args:
        confusion: [classes, classes] pixels, true class first.
        match: what a predicted class stands for.

    Returns:
        The scores; without a single pixel to judge, NaN.
    """
    true, said = confusion.sum(axis=1), confusion.sum(axis=0)
    total = true.sum()
    if not total:
        return MaskScores(np.full(len(confusion), np.nan), dict.fromkeys(METRICS, np.nan))
    if match == "direct":
        hits, partner = confusion.diagonal(), said
        occurring = np.count_nonzero(true + said)
    else:
        hits, partner = _matched(confusion)
        occurring = max(map(np.count_nonzero, (true, said)))
    iou = _iou(hits, true, partner)
    values = (
        np.nansum(iou) / occurring,
        hits.sum() / total,
        (hits[true > 0] / true[true > 0]).mean(),
        np.nansum(iou * true) / total,
    )
    return MaskScores(iou, dict(zip(METRICS, map(float, values), strict=True)))


def parts_of(confusion: Counts) -> Counts:
    """Return what an image's classes add to the IoUs [3, classes]: hits, true and said pixels."""
    return np.stack([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)])


def resampled_miou(parts: Sequence[Counts], seed: int) -> Numbers:
    """Return the direct mIoU [RESAMPLES] of images that are drawn again, for a bootstrap.

    The same seed draws the same images, so that differences can be resampled, too.

    Args:
        parts: of each image, as `parts_of` returns them.
        seed: of the drawing.
    """
    images, stream = len(parts), Stream(seed, "bootstrap", "images")
    table = np.stack(parts).reshape(images, -1).astype(np.float64)
    found = []
    for _ in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        drawn = (stream.uniform(RESAMPLES_AT_ONCE, images) * images).astype(np.int64)
        times = np.stack([np.bincount(one, minlength=images) for one in drawn])
        sums = (times @ table).reshape(RESAMPLES_AT_ONCE, 3, -1)
        found.append(np.nanmean(_iou(*sums.transpose(1, 0, 2)), axis=1))
    return np.concatenate(found)


def interval_of(values: Numbers) -> tuple[float, float]:
    """Return the 95 % interval that resampled values give."""
    low, high = np.percentile(values, [TAIL, 100 - TAIL])
    return float(low), float(high)


def _matched(confusion: Counts) -> tuple[Counts, Counts]:
    """Return, for each true class, the pixels that it shares with its partner, and the partner's.

    Only classes that occur are matched: those that do not would take partners at random.
    """
    true, said = confusion.sum(axis=1), confusion.sum(axis=0)
    rows, columns = np.flatnonzero(true), np.flatnonzero(said)
    shared = confusion[np.ix_(rows, columns)]
    iou = shared / np.maximum(true[rows][:, None] + said[columns] - shared, 1)
    row, column = linear_sum_assignment(iou, maximize=True)
    hits, partner = np.zeros_like(true), np.zeros_like(true)
    hits[rows[row]] = shared[row, column]
    partner[rows[row]] = said[columns[column]]
    return hits, partner


def _iou(hits: NDArray[np.number], true: NDArray[np.number], said: NDArray[np.number]) -> Numbers:
    union = (true + said - hits).astype(np.float64)
    return np.divide(hits, union, out=np.full(union.shape, np.nan), where=union > 0)
