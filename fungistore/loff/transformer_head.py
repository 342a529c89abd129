"""LOFF's classifier: a small vision transformer on projected tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn

from fungistore.loff.head import (
    NORM_EPSILON,
    POSITION_STD,
    Head,
    HeadSpec,
    chosen_cells,
    positions_of,
    projection,
)
from fungistore.loff.one_query import ClassTokenBlock


@dataclass(frozen=True)
class EncoderSize:
    """The size of a plain vision transformer, and the timm model with weights of that width."""

    width: int
    blocks: int
    heads: int
    timm: str


ENCODERS: Mapping[str, EncoderSize] = {
    "deit-s": EncoderSize(384, 12, 6, "deit_small_patch16_224"),  # the paper's cost
    "deit-ti": EncoderSize(192, 12, 3, "deit_tiny_patch16_224"),
    "vit-xs": EncoderSize(192, 4, 3, "deit_tiny_patch16_224"),  # for CPUs; its first four blocks
}


class TransformerHead(Head):
    """LOFF's classifier: projection, LayerNorm, class token, positions, a small ViT (section 3).

    From the class token on, parameters have timm's names and meaning.
    """

    piece_cells = 1024  # its cells cost more

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        assert spec.grid is not None  # HeadSpec has checked it
        size = ENCODERS[spec.kind]
        self.embed = projection(spec.in_dim, size.width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + spec.grid[0] * spec.grid[1], size.width))
        self.dropout = nn.Dropout(spec.dropout)
        rates = torch.linspace(0, spec.drop_path, size.blocks).tolist()
        kinds = [Block] * (size.blocks - 1) + [ClassTokenBlock]
        self.blocks = nn.Sequential(
            *(
                kind(size.width, size.heads, qkv_bias=True, drop_path=rate)
                for kind, rate in zip(kinds, rates, strict=True)
            )
        )
        self.norm = nn.LayerNorm(size.width, eps=NORM_EPSILON)
        self.classifier = nn.Linear(size.width, spec.classes)
        if spec.embedding_dim is not None:
            self.embed_sample = projection(spec.embedding_dim, size.width)
        self.apply(init_weights_vit_timm)
        nn.init.trunc_normal_(self.cls_token, std=POSITION_STD)
        nn.init.trunc_normal_(self.pos_embed, std=POSITION_STD)

    def classify(
        self,
        features: Float[Tensor, "b *grid d"],
        embedding: Float[Tensor, "b e"] | None = None,
        cells: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Return the logits of the class token, which begins with the embedding added to it."""
        dtype = self.classifier.weight.dtype
        tokens = self.embed(chosen_cells(features, cells).to(dtype))
        tokens = tokens + positions_of(self.pos_embed[:, 1:], cells)
        first = self.cls_token + self.pos_embed[:, :1]
        if embedding is not None:
            first = first + self.embed_sample(embedding.to(dtype))[:, None]
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.blocks(self.dropout(tokens))
        return self.classifier(self.norm(tokens[:, 0]))
