"""One recorded forward from the target layers on, and the per-sample gradients read off it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
class LayerTape:
    """What entered and left one target layer.

    Attributes:
        inputs: one tensor a chunk of views: [b, n, in] of a linear layer, where n counts the
            chunk's views times the tokens that each of them sends through it; of any other
            [b, v, ...], as it takes them.
        outputs: require a gradient; any shape that holds [b, n, out] in this order, or
            [b * v, ...].
        contract: makes gradients of what comes back to an output, and of its input.
    """

    inputs: tuple[Float[Tensor, "b ..."], ...]
    outputs: tuple[Float[Tensor, ...], ...]
    contract: Contract

    def gradient(self, backprops: Sequence[Tensor]) -> Float[Tensor, "b o m"]:
        """Return the gradient of every sample, of what came back to the outputs."""
        total: Tensor | None = None
        for backprop, entered in zip(backprops, self.inputs, strict=True):
            part = self.contract(backprop, entered)
            total = part if total is None else total + part
        assert total is not None  # autograd.grad refuses an empty tuple of outputs
        return total


@dataclass(frozen=True)
class Tape:
    """What a gradient path recorded for `b` samples of `v` views.

    Attributes:
        embeddings: [b, v, e] float32, differentiable back to the outputs of all layers.
        layers: of each target layer, as the path was given them.
        patches: tokens [b, *shape, d] of the first view, where they were asked for.
        tokens: tokens [b, v, *shape, d] of all views, differentiable as `embeddings` are, where
            they were asked for; one grid for each run of views whose tokens have one shape.
    """

    embeddings: Float[Tensor, "b v e"]
    layers: tuple[LayerTape, ...]
    patches: TokenGrid | None = None
    tokens: tuple[TokenGrid, ...] = ()

    def gradients(self, losses: Float[Tensor, " b"]) -> Float[Tensor, "b o m"]:
        """Return dL_b/dW of every sample b, of the first layer; see `gradients_of`."""
        return next(self.gradients_of(losses, [0]))

    def gradients_of(
        self, losses: Float[Tensor, " b"], layers: Sequence[int]
    ) -> Iterator[Float[Tensor, "b o m"]]:
        """Yield dL_b/dW of every sample b, of some layers by their places: one backward for all.

        Each is float32 [b, out, in], or [b, out, in + 1] with a bias. The gradient of y = W a + g
        is the outer product of dL/dy and a, summed over tokens and views; the bias gradient is the
        last column (FUNGI, section 3; reference code). Of a convolution `in` is its weight's
        [in / groups, height, width] in a row.
        """
        chosen = [self.layers[place] for place in layers]
        outputs = [output for layer in chosen for output in layer.outputs]
        backprops = iter(torch.autograd.grad(losses.sum(), outputs, retain_graph=True))
        for layer in chosen:
            yield layer.gradient([next(backprops) for _ in layer.outputs])

    def token_gradients(
        self, losses: Float[Tensor, " b"], tokens: int, layer: int = 0
    ) -> tuple[Float[Tensor, "b t o"], Float[Tensor, "b t i"]]:
        """Return the two factors of each token's part of dL_b/dW: what came back, what entered.

        The layer's last `tokens` rows of a sample are those that have places; class and register
        tokens stand in front of them. Of one view a sample, and a linear layer.
        """
        (output,), (entered,) = self.layers[layer].outputs, self.layers[layer].inputs
        (back,) = torch.autograd.grad(losses.sum(), (output,), retain_graph=True)
        back = back.reshape(*entered.shape[:2], -1)
        return back[:, -tokens:], entered[:, -tokens:]


@runtime_checkable
class GradientPath(Protocol):
    """Runs views through a frozen backbone and records what per-sample gradients need."""

    @property
    def gradient_shapes(self) -> tuple[tuple[int, int], ...]:
        """Of each layer, the shape of a sample's gradient: (out, in), or (out, in + 1) with a bias.

        (0, 0) where there is no layer.
        """

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
