"""What a mask says of patches: their pixels of each class, and which of them a bank takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fungistore.annotations.masks import VOID
from fungistore.randomness import Stream
from fungistore.segmentation.pictures import nearest

Labels = NDArray[np.uint16]
Counts = NDArray[np.int64]


def patch_counts(mask: Labels, grid: tuple[int, int], cell: int, classes: int) -> Counts:
    """Return how many pixels of each class [h, w, c] each patch has, of the model's input.

    Args:
        mask: [height, width], of any size: its nearest pixels are taken.
        grid: rows and columns of patches.
        cell: pixels of the input a patch has, a side.
        classes: how many; void pixels do not count.
    """
    height, width = grid
    square = nearest(mask, height * cell, width * cell).astype(np.int64)
    rows, columns = np.indices(square.shape) // cell
    place = (rows * width + columns) * (classes + 1) + np.minimum(square, classes)
    counted = np.bincount(place.ravel(), minlength=height * width * (classes + 1))
    return counted.reshape(height, width, classes + 1)[..., :classes]


def patch_scores(counts: Counts) -> NDArray[np.float64]:
    """Return for each patch how many patches of the image have its classes, summed over these.

    Patches of rare classes score low, and the lowest are taken (open-hummingbird-eval, and FUNGI's
    reference code). A patch of void alone scores infinity.
    """
    has = counts > 0
    often = has.sum(axis=(0, 1))
    scores = (has * often).sum(axis=2).astype(np.float64)
    scores[~has.any(axis=2)] = np.inf
    return scores


def choose_patches(counts: Counts, most: int, seed: int, sample_id: str) -> NDArray[np.int64]:
    """Return the places of up to `most` patches of an image, ascending: those that score lowest.

    Each score is multiplied by a random number of the image's own stream.
    """
    scores = patch_scores(counts).ravel()
    scores *= Stream(seed, "bank", sample_id).uniform(len(scores))
    order = np.argsort(scores, kind="stable")[: min(most, int(np.isfinite(scores).sum()))]
    return np.sort(order)


def with_background(mask: Labels) -> Labels:
    """Return a mask whose void is of the first class, as the reference code has it in banks."""
    return np.where(mask == VOID, 0, mask).astype(np.uint16)
