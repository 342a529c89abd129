"""One recorded forward from the target layer on, and the per-sample gradients read off it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fungistore.backbones.encoder import TokenGrid
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.modalities.views import Inputs

Chunks = Iterable[Inputs]  # of the inputs of some views each: tensors [b, v, ...]


@dataclass(frozen=True)
class Tape:
    """What a gradient path recorded for `b` samples of `v` views.

    Attributes:
        embeddings: [b, v, e] float32, differentiable back to `outputs`.
        inputs: the target layer's inputs, one [b, n, in] tensor a chunk of views; n counts the
            chunk's views times the tokens that each of them sends through the layer.
        outputs: the target layer's outputs, leaves that require a gradient; any shape that
            holds [b, n, out] in this order.
        has_bias: the target layer adds a bias.
        patches: tokens [b, *shape, d] of the first view, where they were asked for.
        tokens: tokens [b, v, *shape, d] of all views, differentiable as `embeddings` are, where
            they were asked for; one grid for each run of views whose tokens have one shape.
    """

    embeddings: Float[Tensor, "b v e"]
    inputs: tuple[Float[Tensor, "b _ i"], ...]
    outputs: tuple[Float[Tensor, ...], ...]
    has_bias: bool
    patches: TokenGrid | None = None
    tokens: tuple[TokenGrid, ...] = ()

    def gradients(self, losses: Float[Tensor, " b"]) -> Float[Tensor, "b o m"]:
        """Return dL_b/dW of every sample b: float32 [b, out, in], or [b, out, in + 1] with a bias.

        The gradient of y = W a + g is the outer product of dL/dy and a, summed over tokens and
        views; the bias gradient is the last column (FUNGI, section 3; reference code).
        """
        backprops = torch.autograd.grad(losses.sum(), self.outputs, retain_graph=True)
        total: Tensor | None = None
        for backprop, entered in zip(backprops, self.inputs, strict=True):
            if self.has_bias:
                entered = torch.cat([entered, torch.ones_like(entered[..., :1])], dim=-1)
            backprop = backprop.reshape(*entered.shape[:2], -1)
            part = backprop.transpose(1, 2) @ entered
            total = part if total is None else total + part
        assert total is not None  # autograd.grad refuses an empty tuple of outputs
        return total


@runtime_checkable
class GradientPath(Protocol):
    """Runs views through a frozen backbone and records what per-sample gradients need."""

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """Shape of one sample's gradient: (out, in), or (out, in + 1) with a bias."""

    def samples_at_once(self, views: int, batch_size: int, device: torch.device) -> int:
        """How many samples of `views` views a device records together within `batch_size`."""

    def record(
        self, chunks: Chunks, *, patches: bool = False, watch: Stopwatch = UNWATCHED
    ) -> Tape:
        """Run chunks of views; `patches` also keeps the tokens of the first chunk."""


def flat_inputs(inputs: Inputs) -> Inputs:
    """Return inputs [b, v, ...] as the encoder runs them: [b * v, ...]."""
    return tuple(tensor.flatten(0, 1) for tensor in inputs)


def parts_of(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Yield inputs [n, ...] in parts of up to `size` views."""
    yield from zip(*(tensor.split(size) for tensor in inputs), strict=True)
