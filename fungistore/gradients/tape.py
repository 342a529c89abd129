"""One recorded forward from the target layer on, and the per-sample gradients read off it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fungistore.backbones.encoder import TokenGrid
from fungistore.gradients.layers import Contract
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.modalities.views import Inputs

Chunks = Iterable[Inputs]  # of the inputs of some views each: tensors [b, v, ...]


@dataclass(frozen=True)
class Tape:
    """What a gradient path recorded for `b` samples of `v` views.

    Attributes:
        embeddings: [b, v, e] float32, differentiable back to `outputs`.
        inputs: the target layer's inputs, one tensor a chunk of views: [b, n, in] of a linear
            layer, where n counts the chunk's views times the tokens that each of them sends
            through it; of any other [b, v, ...], as it takes them.
        outputs: the target layer's outputs, leaves that require a gradient; any shape that
            holds [b, n, out] in this order, or [b * v, ...].
        contract: makes gradients of what comes back to an output, and of its input.
        patches: tokens [b, *shape, d] of the first view, where they were asked for.
        tokens: tokens [b, v, *shape, d] of all views, differentiable as `embeddings` are, where
            they were asked for; one grid for each run of views whose tokens have one shape.
    """

    embeddings: Float[Tensor, "b v e"]
    inputs: tuple[Float[Tensor, "b ..."], ...]
    outputs: tuple[Float[Tensor, ...], ...]
    contract: Contract
    patches: TokenGrid | None = None
    tokens: tuple[TokenGrid, ...] = ()

    def gradients(self, losses: Float[Tensor, " b"]) -> Float[Tensor, "b o m"]:
        """Return dL_b/dW of every sample b: float32 [b, out, in], or [b, out, in + 1] with a bias.

        The gradient of y = W a + g is the outer product of dL/dy and a, summed over tokens and
        views; the bias gradient is the last column (FUNGI, section 3; reference code). Of a
        convolution `in` is its weight's [in / groups, height, width] in a row.
        """
        backprops = torch.autograd.grad(losses.sum(), self.outputs, retain_graph=True)
        total: Tensor | None = None
        for backprop, entered in zip(backprops, self.inputs, strict=True):
            part = self.contract(backprop, entered)
            total = part if total is None else total + part
        assert total is not None  # autograd.grad refuses an empty tuple of outputs
        return total

    def token_gradients(
        self, losses: Float[Tensor, " b"], tokens: int
    ) -> tuple[Float[Tensor, "b t o"], Float[Tensor, "b t i"]]:
        """Return the two factors of each token's part of dL_b/dW: what came back, what entered.

        The layer's last `tokens` rows of a sample are those that have places; class and register
        tokens stand in front of them. Of one view a sample, and a linear layer.
        """
        (output,), (entered,) = self.outputs, self.inputs
        (back,) = torch.autograd.grad(losses.sum(), (output,), retain_graph=True)
        back = back.reshape(*entered.shape[:2], -1)
        return back[:, -tokens:], entered[:, -tokens:]


@runtime_checkable
class GradientPath(Protocol):
    """Runs views through a frozen backbone and records what per-sample gradients need."""

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """Shape of one sample's gradient: (out, in), or (out, in + 1) with a bias."""

    def samples_at_once(
        self, views: int, batch_size: int, device: torch.device, tokens: int
    ) -> int:
        """How many samples of `views` views a device records together within `batch_size`.

        A view of the sample has about so many tokens.
        """

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
