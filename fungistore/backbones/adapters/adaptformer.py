"""AdaptFormer (Chen et al., NeurIPS 2022): a bottleneck beside each block's perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from fungistore.backbones.adapters.adapter import blocks_in_line, drawn, run_behind
from fungistore.randomness import Stream
from fungistore.settings import require


@dataclass(frozen=True)
class AdaptFormer:
    """x = MLP(LN(x')) + scale * Up(ReLU(Down(LN(x')))) + x' (eq. 3 and 4).

    The bottleneck stands outside of a LayerScale: that is trained with the perceptron, of which
    the paper's models have none.

    Attributes:
        width: of the bottleneck.
        scale: of what it adds.
    """

    width: int = 64
    scale: float = 0.1

    name: ClassVar[str] = "adaptformer"
    learning_rate: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        """Refuse unusable settings with UsageError."""
        require(self.width > 0, "adaptformer.width", "1 or more", self.width)
        is_usable = self.scale > 0 and isfinite(self.scale)
        require(is_usable, "adaptformer.scale", "a number above 0", self.scale)

    def attach(self, model: Any, *, seed: int) -> None:
        """Put a bottleneck beside each perceptron: Down as Kaiming's rule has it, Up zero."""
        blocks = blocks_in_line(model, self.name)
        model.requires_grad_(False)
        for index, block in enumerate(blocks):
            stream = Stream(seed, "adapter", self.name, str(index))
            dim = model.embed_dim
            down = drawn(stream, dim**-0.5, block.norm2.weight, self.width, dim)
            run_behind(block.mlp, self.name, Bottleneck(down, self.scale, block.ls2))
            block.ls2 = nn.Identity()  # it runs in the bottleneck

    def merge(self, model: Any) -> None:
        """Leave the model as it is: beside a perceptron nothing can be folded."""


class Bottleneck(nn.Module):
    """What is added to a perceptron's output, behind the block's LayerScale.

    Its layers are bare parameters: an eight-bit trunk, which replaces linear modules, leaves them
    as they are.

    Args:
        down: the weight of Down [w, d], before training.
        scale: of what it adds.
        layer_scale: the block's, or the identity.
    """

    def __init__(self, down: Float[Tensor, "w d"], scale: float, layer_scale: nn.Module) -> None:
        super().__init__()
        width, dim = down.shape
        self.down = nn.Parameter(down)
        self.down_bias = nn.Parameter(down.new_zeros(width))
        self.up = nn.Parameter(down.new_zeros(dim, width))
        self.up_bias = nn.Parameter(down.new_zeros(dim))
        self.layer_scale = layer_scale
        self.scale = scale

    def forward(self, mlp: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Return what the block adds to its residual stream."""
        hidden = linear(inputs[0], self.down, self.down_bias).relu()
        scaled: Tensor = self.layer_scale(output)
        return scaled + self.scale * linear(hidden, self.up, self.up_bias)
