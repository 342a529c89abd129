"""Losses of classification, with soft targets: plain, and two that know how rare classes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fungistore.machine.transfer import send
from fungistore.training.options import LossName


@dataclass(frozen=True, eq=False)
class ClassificationLoss:
    """The mean loss of a batch, from logits and the probabilities that classes should have.

    Smoothing must not undo what evens classes out, so it has no say in which class is favoured:
    smoothed targets are weighed as the class they came from, and those of a balanced softmax are
    in proportion to sizes, which it divides by again. Both are equal parts for equal sizes.

    Attributes:
        smoothing: part of each target that all classes share.
        weights: of the classes; a batch's loss is the mean weighed by its targets.
        sizes: of the classes; they multiply the parts of the softmax, in training alone.
    """

    smoothing: float
    weights: Float[Tensor, " c"] | None = None
    sizes: Float[Tensor, " c"] | None = None

    @classmethod
    def named(
        cls,
        name: LossName,
        labels: NDArray[np.integer],
        classes: int,
        *,
        smoothing: float,
        device: torch.device,
    ) -> ClassificationLoss:
        """Return a loss for training rows.

        "weighted" weighs a class by the inverse of its size, such that the mean over the rows is
        one. "balanced-softmax" (Ren et al., NeurIPS 2020, equation 3) multiplies each class's part
        of the softmax by its size, so that the plain softmax of the logits is fit for classes of
        equal sizes. A class without rows counts as one of a single row.

        Args:
            name: of the loss.
            labels: of the training rows [n].
            classes: number of classes.
            smoothing: part of each target that all classes share.
            device: where the loss is computed.
        """
        counts = np.bincount(labels, minlength=classes)
        sizes = np.maximum(counts, 1)
        if name == "weighted":
            weights = len(labels) / (np.count_nonzero(counts) * sizes)
            return cls(smoothing, weights=send(torch.from_numpy(weights).float(), device))
        if name == "balanced-softmax":
            return cls(smoothing, sizes=send(torch.from_numpy(sizes).float(), device))
        return cls(smoothing)

    def __call__(self, logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Tensor:
        """Return the mean loss of a batch, in float32."""
        logits = logits.float()
        if self.sizes is not None:
            shared = self.sizes / self.sizes.sum()
            smooth = targets * (1 - self.smoothing) + self.smoothing * shared
            return functional.cross_entropy(logits + self.sizes.log(), smooth)
        if self.weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        weighed = targets * self.weights
        rows = weighed.sum(dim=1, keepdim=True)
        smooth = weighed * (1 - self.smoothing) + rows * (self.smoothing / targets.shape[1])
        return -(smooth * logits.log_softmax(dim=1)).sum() / rows.sum()
