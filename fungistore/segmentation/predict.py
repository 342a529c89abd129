"""Masks from a bank: each token takes the labels of its neighbours, and pixels those of tokens.

In-context scene understanding (Balazevic et al., 2023), as FUNGI's section 4.3 evaluates it: the
cosines with the k nearest patches of the bank, through softmax(cosine / beta), weigh their soft
labels; the map of a whole image is made as large as its mask, and the largest class wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fungistore.segmentation.banks import Bank

TOKENS = 4096  # looked up together: an exact search of few is as slow as one of many
GATHERED_BYTES = 64_000_000  # of the neighbours' labels that are weighed at once
BAND_BYTES = 64_000_000  # of the classes of the pixels that are compared at once

Vectors = NDArray[np.float32]
Labels = NDArray[np.uint16]


def attend(cosines: Vectors, labels: Vectors, beta: float) -> Vectors:
    """Return the labels [q, c] of queries, their neighbours' weighed by softmax(cosine / beta).

    Args:
        cosines: [q, k] with each neighbour; minus infinity for one that was not found.
        labels: [q, k, c] shares of each class, of the same neighbours.
        beta: the temperature.
    """
    largest = cosines.max(axis=1, keepdims=True)
    weights = np.exp((cosines - np.where(np.isfinite(largest), largest, 0)) / np.float32(beta))
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found: Vectors = np.einsum("qk,qkc->qc", weights, labels)
    return found


def label_maps(bank: Bank, tokens: Vectors, k: int, beta: float) -> Iterator[Vectors]:
    """Yield the shares of the classes [h, w, c] in the tokens of each image.

    Args:
        bank: what is known.
        tokens: unit vectors [n, h, w, d], of n images.
        k: neighbours of each token.
        beta: the temperature.
    """
    _, height, width, dim = tokens.shape
    step = max(1, TOKENS // (height * width))
    for start in range(0, len(tokens), step):
        asked = np.ascontiguousarray(tokens[start : start + step]).reshape(-1, dim)
        said = _soft_labels(bank, asked, k, beta)
        yield from said.reshape(-1, height, width, said.shape[1])


def largest_class(shares: Vectors, height: int, width: int) -> Labels:
    """Return the class [height, width] with the largest share at each pixel; ties to the first.

    A pixel's shares are interpolated between the centres of the tokens, bilinearly, as PyTorch's
    `interpolate(..., align_corners=False)` does it. Pixels go in bands of rows, and classes that
    no token has are passed over, so that memory stays small whatever the size.

    Args:
        shares: [h, w, c] of the classes in each token.
        height, width: of the mask.
    """
    present = np.flatnonzero(shares.any(axis=(0, 1)))
    if len(present) < 2:
        return np.full((height, width), present[0] if len(present) else 0, np.uint16)
    tokens = torch.from_numpy(np.ascontiguousarray(shares[..., present].transpose(2, 0, 1)))
    rows = tokens.shape[1]
    said = np.empty((height, width), np.uint16)
    step = max(1, BAND_BYTES // (tokens.element_size() * len(present) * width))
    for start in range(0, height, step):
        stop = min(start + step, height)
        place = ((torch.arange(start, stop) + 0.5) * (rows / height) - 0.5).clamp_min(0)
        above = place.long()
        below = (above + 1).clamp_max(rows - 1)
        band = torch.lerp(tokens[:, above], tokens[:, below], (place - above)[:, None])
        pixels = torch.nn.functional.interpolate(
            band[None], size=(stop - start, width), mode="bilinear", align_corners=False
        )
        said[start:stop] = present[pixels[0].argmax(dim=0).numpy()]
    return said


def _soft_labels(bank: Bank, tokens: Vectors, k: int, beta: float) -> Vectors:
    cosines, ids = bank.search(tokens, k)
    cosines = np.where(ids < 0, -np.inf, cosines).astype(np.float32, copy=False)
    found = np.empty((len(tokens), len(bank.classes)), np.float32)
    step = max(1, GATHERED_BYTES // (4 * k * found.shape[1]))
    for start in range(0, len(tokens), step):
        part = slice(start, start + step)
        labels = bank.counts[np.maximum(ids[part], 0)].astype(np.float32)
        labels /= labels.sum(axis=2, keepdims=True)
        found[part] = attend(cosines[part], labels, beta)
    return found
