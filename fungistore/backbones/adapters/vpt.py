"""Visual prompt tuning (Jia et al., ECCV 2022): trained tokens beside those of an image."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from timm.layers import to_2tuple
from torch import Tensor, nn

from fungistore.backbones.adapters.adapter import blocks_in_line, drawn
from fungistore.randomness import Stream
from fungistore.settings import require

PROMPTS = "prompts"  # what a block's child is called


@dataclass(frozen=True)
class VPT:
    """Prompts behind the class token (and the registers), in front of the patches.

    Attributes:
        prompts: how many, p.
        depth: "deep" (eq. 5 and 6): each block has prompts of its own, and what it makes of them
            is dropped; "shallow" (eq. 4): the first block gets them, and the others what became
            of them.
        dropout: of the prompts, in training.
    """

    prompts: int = 10
    depth: Literal["deep", "shallow"] = "deep"
    dropout: float = 0.0

    name: ClassVar[str] = "vpt"
    learning_rate: ClassVar[float] = 1e-2

    def __post_init__(self) -> None:
        """Refuse unusable settings with UsageError."""
        require(self.prompts > 0, "vpt.prompts", "1 or more", self.prompts)
        require(self.depth in ("deep", "shallow"), "vpt.depth", "deep or shallow", self.depth)
        require(0 <= self.dropout < 1, "vpt.dropout", "a number in [0, 1)", self.dropout)

    def attach(self, model: Any, *, seed: int) -> None:
        """Give blocks their prompts, drawn as in section 3.2's code: Xavier's rule of a patch.

        No prompts are without effect, not even zeros: attention looks at all tokens.
        """
        blocks = blocks_in_line(model, self.name)
        model.requires_grad_(False)
        pixels = prod(to_2tuple(model.patch_embed.patch_size))
        bound = sqrt(6 / (3 * pixels + model.embed_dim))
        deep = self.depth == "deep"
        for index, block in enumerate(blocks if deep else blocks[:1]):
            stream = Stream(seed, "adapter", self.name, str(index))
            like = block.norm1.weight
            tokens = drawn(stream, bound, like, self.prompts, model.embed_dim)
            prompts = Prompts(tokens, model.num_prefix_tokens, self.dropout)
            block.add_module(PROMPTS, prompts.train(block.training))
            block.register_forward_pre_hook(prompts.enter)
            (block if deep else blocks[-1]).register_forward_hook(prompts.leave)

    def merge(self, model: Any) -> None:
        """Leave the model as it is: prompts are no weights."""


class Prompts(nn.Module):
    """Prompts of a block: they enter before it, and leave behind it or a later one.

    Args:
        tokens: [p, d], before training.
        place: how many tokens stand in front of them.
        dropout: of the prompts of each sample.
    """

    def __init__(self, tokens: Float[Tensor, "p d"], place: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens)
        self.place = place
        self.dropout = dropout

    def among(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n u d"]:
        """Return tokens with the prompts among them, u = t + p."""
        prompts = self.tokens.expand(len(tokens), -1, -1)
        prompts = nn.functional.dropout(prompts, self.dropout, self.training)
        return torch.cat((tokens[:, : self.place], prompts, tokens[:, self.place :]), dim=1)

    def enter(self, block: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Change what enters a block: its pre-hook."""
        return (self.among(inputs[0]),)

    def leave(self, block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Drop what a block made of the prompts: its hook."""
        behind = self.place + len(self.tokens)
        return torch.cat((output[:, : self.place], output[:, behind:]), dim=1)
