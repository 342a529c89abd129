"""Low-rank adaptation (Hu et al., ICLR 2022) of the attentions' two linear layers.

It is these few lines rather than the package `peft`, which would bring transformers and accelerate
into every installation, and wants to own the model that it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fungistore.backbones.adapters.adapter import blocks_in_line, drawn, remove_behind, run_behind
from fungistore.randomness import Stream
from fungistore.settings import require


@dataclass(frozen=True)
class LoRA:
    """W + alpha / rank * B A in the place of each W of `attn.qkv` and `attn.proj` (section 4.1).

    Attributes:
        rank: rows of A and columns of B.
        alpha: the change's scale, divided by the rank.
    """

    rank: int = 8
    alpha: float = 8.0

    name: ClassVar[str] = "lora"
    learning_rate: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        """Refuse unusable settings with UsageError."""
        require(self.rank > 0, "lora.rank", "1 or more", self.rank)
        is_usable = self.alpha > 0 and isfinite(self.alpha)
        require(is_usable, "lora.alpha", "a number above 0", self.alpha)

    def attach(self, model: Any, *, seed: int) -> None:
        """Put A and B behind the layers: A as torch draws a linear layer's weight, B zero."""
        blocks_in_line(model, self.name)
        model.requires_grad_(False)
        for index, layer in enumerate(_layers(model)):
            stream = Stream(seed, "adapter", self.name, str(index))
            down = drawn(
                stream, layer.in_features**-0.5, layer.weight, self.rank, layer.in_features
            )
            run_behind(layer, self.name, LowRank(down, layer.out_features, self.alpha / self.rank))

    def merge(self, model: Any) -> None:
        """Add the products to the weights."""
        for layer in _layers(model):
            with torch.no_grad():
                layer.weight.add_(layer.lora.change())
            remove_behind(layer, self.name)


class LowRank(nn.Module):
    """The product that is added to a linear layer's weight.

    Args:
        down: A [r, i], before training.
        outputs: of the layer.
        scale: of the product.
    """

    def __init__(self, down: Tensor, outputs: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(down.new_zeros(outputs, len(down)))
        self.scale = scale

    def change(self) -> Tensor:
        """Return what is added to the weight [o, i]."""
        return self.scale * (self.up @ self.down)

    def forward(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Return the layer's output with the changed weight, without making that."""
        return output + self.scale * (inputs[0] @ self.down.T @ self.up.T)


def _layers(model: Any) -> Iterator[Any]:
    for block in model.blocks:
        yield from (block.attn.qkv, block.attn.proj)
