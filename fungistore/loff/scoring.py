"""What a head says of rows, and how right it is; never with augmentation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.evaluation.metrics import Predictions, classification_metrics
from fungistore.loff.heads import Head
from fungistore.loff.loader import PatchLoader
from fungistore.matrices.cells import pooled


@torch.no_grad()
def probabilities(
    head: Head, loader: PatchLoader, *, pool: int, dtype: torch.dtype
) -> NDArray[np.float32]:
    """Return the probabilities [n, classes] of a loader's rows, in its order.

    Args:
        head: on the loader's device; is put into evaluation mode.
        loader: of rows in sequence.
        pool: cells to average over.
        dtype: of matrix products.
    """
    head.eval()
    parts = []
    for batch in loader.epoch(0):
        values = pooled(batch.values, pool)
        with torch.autocast(loader.device.type, torch.bfloat16, dtype == torch.bfloat16):
            logits = head(values, batch.embeddings)
        parts.append(logits.float().softmax(dim=1).cpu())
    return torch.cat(parts).numpy()


def score_head(
    head: Head,
    loader: PatchLoader,
    truth: NDArray[np.int32],
    *,
    pool: int,
    dtype: torch.dtype,
    ranks: NDArray[np.int64] | None,
) -> dict[str, float]:
    """Return `classification_metrics` of a loader's rows.

    Args:
        head: the head.
        loader: of rows in sequence.
        truth: their labels [n].
        pool: cells to average over.
        dtype: of matrix products.
        ranks: of the classes from low to high, None where they have no order.
    """
    said = probabilities(head, loader, pool=pool, dtype=dtype)
    return classification_metrics(truth, ranked(said), said.shape[1], ranks)


def ranked(said: NDArray[np.float32]) -> Predictions:
    """Return the classes by falling probability [n, classes], ties to the smallest label."""
    return Predictions.of_probabilities(said, np.arange(said.shape[1]))
