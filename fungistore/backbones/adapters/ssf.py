"""Scaling and shifting features (Lian et al., NeurIPS 2022), section 3.2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.layers import RmsNorm
from torch import Tensor, nn

from fungistore.backbones.adapters.adapter import blocks_in_line, remove_behind, run_behind

SSF_LAYERS = (nn.Linear, nn.LayerNorm, RmsNorm)
FOLDING = (nn.Linear, nn.Conv2d, nn.LayerNorm)  # an RMS norm has no bias that takes a shift
CHILD = "ssf"


@dataclass(frozen=True)
class SSF:
    """A scale and a shift for each channel behind each operation: y = scale * x + shift (eq. 5).

    Operations are the patch embedding, each norm and linear layer of the blocks, and the norms
    before and behind them. At first scales are 1 and shifts 0.
    """

    name: ClassVar[str] = "ssf"
    learning_rate: ClassVar[float] = 3e-3

    def attach(self, model: Any, *, seed: int) -> None:
        """Put a scale and a shift behind each operation; nothing is drawn."""
        blocks_in_line(model, self.name)
        model.requires_grad_(False)
        for layer in list(_operations(model)):
            run_behind(layer, CHILD, ScaleShift(layer.weight))

    def merge(self, model: Any) -> None:
        """Fold scales and shifts into the weight and the bias in front of them (eq. 6)."""
        for layer in list(_operations(model)):
            found: ScaleShift = layer.ssf
            if isinstance(layer, FOLDING):
                with torch.no_grad():
                    _fold(layer, found.scale, found.shift)
                remove_behind(layer, CHILD)


class ScaleShift(nn.Module):
    """A scale and a shift of each channel of what a layer gives.

    Args:
        weight: of the layer, whose first side is its channels.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(weight.new_ones(len(weight)))
        self.shift = nn.Parameter(torch.zeros_like(self.scale))

    def forward(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Return a layer's output, its channels last or of a map first, scaled and shifted."""
        if isinstance(layer, nn.Conv2d):
            return output * self.scale[:, None, None] + self.shift[:, None, None]
        return output * self.scale + self.shift


def _operations(model: Any) -> Iterator[Any]:
    """Yield the layers that are followed by a scale and a shift."""
    yield model.patch_embed.proj
    norm = getattr(model.patch_embed, "norm", nn.Identity())
    for part in (norm, model.norm_pre, *model.blocks, model.norm, model.fc_norm):
        yield from (one for one in part.modules() if isinstance(one, SSF_LAYERS))


def _fold(layer: Any, scale: Tensor, shift: Tensor) -> None:
    weight = layer.weight
    weight.mul_(scale.view(-1, *(1,) * (weight.ndim - 1)))
    if layer.bias is None:
        layer.bias = nn.Parameter(shift.detach().clone(), requires_grad=False)
    else:
        layer.bias.mul_(scale).add_(shift)
