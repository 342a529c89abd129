"""What a head says of rows, and how right it is; as they are, or averaged over their flips."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.predictions import Predictions
from fungistore.loff.flips import AS_IT_IS, Flips
from fungistore.loff.head import Head
from fungistore.loff.loader import PatchLoader
from fungistore.loff.pieces import Inputs
from fungistore.machine.cores import one_thread_each
from fungistore.matrices.cells import pooled


@torch.no_grad()
def probabilities(
    head: Head, loader: PatchLoader, *, pool: int, dtype: torch.dtype, flips: Flips = AS_IT_IS
) -> NDArray[np.float32]:
    """Return the probabilities [n, classes] of a loader's rows, in its order.

    Args:
        head: on the loader's device; is put into evaluation mode.
        loader: of rows in sequence.
        pool: cells to average over.
        dtype: of matrix products.
        flips: the axes that each view is flipped along; their probabilities are averaged.
    """
    head.eval()
    parts = []
    for batch in loader.epoch(0):
        inputs = Inputs(pooled(batch.values, pool), batch.embeddings)
        parts += chances_of_pieces(head, inputs, dtype, flips)
    return torch.cat(parts).numpy()


def chances_of_pieces(
    head: Head, inputs: Inputs, dtype: torch.dtype, flips: Flips
) -> list[Float[Tensor, "b c"]]:
    """Return the probabilities of samples on the CPU, as `chances_of`; one core has each piece."""

    def chances(piece: slice) -> Tensor:
        part = inputs.part(piece)
        with torch.no_grad():  # of this thread
            return chances_of(head, (part.features, part.embedding), dtype, flips).cpu()

    device = inputs.features.device
    with one_thread_each(device) as cores:
        is_cut = device.type == "cpu"
        return list(
            cores.map(chances, inputs.pieces(head.piece_cells) if is_cut else [slice(None)])
        )


def chances_of(
    head: Head, inputs: tuple[Tensor, Tensor | None], dtype: torch.dtype, flips: Flips
) -> Tensor:
    """Return the probabilities [b, classes] of samples, the mean over flips.

    Args:
        head: on their device.
        inputs: pooled features [b, ...], and the embeddings where the head takes them.
        dtype: of matrix products.
        flips: the axes that each view of the features is flipped along.
    """
    values, embeddings = inputs
    said = []
    for axes in flips:
        with torch.autocast(values.device.type, torch.bfloat16, dtype == torch.bfloat16):
            logits = head(values.flip(axes) if axes else values, embeddings)
        said.append(logits.float().softmax(dim=1))
    return torch.stack(said).mean(dim=0)


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


def mean_chances(each: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean of several heads' probabilities; of one, these, bit for bit."""
    return np.stack(each).mean(axis=0, dtype=np.float64).astype(np.float32)


def ranked(said: NDArray[np.float32]) -> Predictions:
    """Return the classes by falling probability [n, classes], ties to the smallest label."""
    return Predictions.of_probabilities(said, np.arange(said.shape[1]))
