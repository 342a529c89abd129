"""The protocol of in-context segmentation once more, in plain NumPy and float64: the oracle."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from fungistore.annotations.masks import VOID, open_masks
from fungistore.store.store import Store

Numbers = NDArray[np.float64]


class PlainBank:
    """All patches of some images with their soft labels, and what these say of others.

    Args:
        store: a store of patches.
        rows: the images.
        side: of the model's input, in pixels.
    """

    def __init__(self, store: Store, rows: NDArray[np.int64], side: int) -> None:
        (feature_set,) = store.feature_sets()
        self._array = store.arrays(feature_set)["patches"]
        masks = open_masks(store)
        self.classes = len(masks.classes)
        vectors, labels = [], []
        for row in rows.tolist():
            tokens, mask = self.tokens(row), masks.read(row)
            square = resized(mask, side, side)
            high, wide = side // tokens.shape[0], side // tokens.shape[1]
            for y, x in product(range(tokens.shape[0]), range(tokens.shape[1])):
                cell = square[y * high : (y + 1) * high, x * wide : (x + 1) * wide].ravel()
                judged = cell[cell != VOID]
                if len(judged):
                    counts = [(judged == label).sum() for label in range(self.classes)]
                    vectors.append(tokens[y, x])
                    labels.append(np.array(counts) / len(judged))
        self.vectors, self.labels = np.array(vectors), np.array(labels)

    def tokens(self, row: int) -> Numbers:
        """The unit vectors [h, w, d] of an image's patches."""
        found = self._array.read(row, row + 1)[0].astype(np.float64)
        return found / np.linalg.norm(found, axis=2, keepdims=True)

    def predict(self, row: int, height: int, width: int, k: int, beta: float) -> NDArray[np.int64]:
        """The class of each pixel [height, width] of an image."""
        tokens = self.tokens(row)
        shares = np.empty((*tokens.shape[:2], self.classes))
        for y, x in product(range(tokens.shape[0]), range(tokens.shape[1])):
            cosines = self.vectors @ tokens[y, x]
            near = np.argsort(-cosines, kind="stable")[:k]
            weights = np.exp(cosines[near] / beta)
            shares[y, x] = weights @ self.labels[near] / weights.sum()
        said = np.empty((height, width), np.int64)
        for y, x in product(range(height), range(width)):
            said[y, x] = _interpolated(shares, (y + 0.5) / height, (x + 0.5) / width).argmax()
        return said


def plain_miou(pairs: list[tuple[NDArray[np.uint16], NDArray[np.int64]]], classes: int) -> float:
    """The mean IoU of true and predicted masks, over the classes that occur in either."""
    true = np.concatenate([mask.ravel() for mask, _ in pairs])
    said = np.concatenate([mask.ravel() for _, mask in pairs])[true != VOID]
    true = true[true != VOID]
    found = []
    for label in range(classes):
        union = ((true == label) | (said == label)).sum()
        if union:
            found.append(((true == label) & (said == label)).sum() / union)
    return float(np.mean(found))


def resized(mask: NDArray[np.uint16], height: int, width: int) -> NDArray[np.uint16]:
    """A mask at another size: each pixel is the one that its centre is in."""
    found = np.empty((height, width), np.uint16)
    for y, x in product(range(height), range(width)):
        row, column = (y + 0.5) * mask.shape[0] / height, (x + 0.5) * mask.shape[1] / width
        found[y, x] = mask[int(row), int(column)]
    return found


def _interpolated(shares: Numbers, down: float, across: float) -> Numbers:
    """The shares at a place (0 to 1), between the centres of the tokens; constant beyond these."""
    places = []
    for part, count in ((down, shares.shape[0]), (across, shares.shape[1])):
        place = min(max(part * count - 0.5, 0), count - 1)
        places.append((int(place), min(int(place) + 1, count - 1), place - int(place)))
    (top, bottom, y), (left, right, x) = places
    above = (1 - x) * shares[top, left] + x * shares[top, right]
    below = (1 - x) * shares[bottom, left] + x * shares[bottom, right]
    found: Numbers = (1 - y) * above + y * below
    return found
