"""Cheaper heads: tokens are pooled once, by one query or by statistics; or there are none."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import init_weights_vit_timm
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
from fungistore.loff.one_query import OneQueryPool

QUERY_WIDTH, QUERY_HEADS = 384, 6  # one attention layer of deit-s
STATISTICS_WIDTH = 128
LEAST_VARIANCE = 1e-6  # below it a deviation's gradient would grow without bound


class QueryHead(Head):
    """Projection, LayerNorm, positions, and one learned query that attends to all cells."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        assert spec.grid is not None  # HeadSpec has checked it
        self.embed = projection(spec.in_dim, QUERY_WIDTH)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.grid[0] * spec.grid[1], QUERY_WIDTH))
        self.dropout = nn.Dropout(spec.dropout)
        self.pool = OneQueryPool(
            QUERY_WIDTH, num_heads=QUERY_HEADS, norm_layer=nn.LayerNorm, act_layer=nn.GELU
        )
        self.norm = nn.LayerNorm(QUERY_WIDTH, eps=NORM_EPSILON)
        self.classifier = nn.Linear(QUERY_WIDTH, spec.classes)
        if spec.embedding_dim is not None:
            self.embed_sample = projection(spec.embedding_dim, QUERY_WIDTH)
        self.apply(init_weights_vit_timm)
        nn.init.trunc_normal_(self.pos_embed, std=POSITION_STD)

    def classify(
        self,
        features: Float[Tensor, "b *grid d"],
        embedding: Float[Tensor, "b e"] | None = None,
        cells: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Return the logits of the pooled token, with the embedding added to it."""
        dtype = self.classifier.weight.dtype
        tokens = self.embed(chosen_cells(features, cells).to(dtype))
        pooled = self.pool(self.dropout(tokens + positions_of(self.pos_embed, cells)))
        if embedding is not None:
            pooled = pooled + self.dropout(self.embed_sample(embedding.to(dtype)))
        return self.classifier(self.norm(pooled))


class StatisticsHead(Head):
    """Projection, LayerNorm and GELU; then maximum, mean and deviation of each channel over cells.

    A maximum finds what few cells have, wherever they are, which a mean dilutes and an attention
    has to learn to look for; the three together are far cheaper than a small ViT.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        width = STATISTICS_WIDTH
        self.embed = projection(spec.in_dim, width)
        self.norm = nn.LayerNorm(3 * width, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(spec.dropout)
        beside = 0
        if spec.embedding_dim is not None:
            self.embed_sample = projection(spec.embedding_dim, width)
            beside = width
        self.classifier = nn.Linear(3 * width + beside, spec.classes)
        self.apply(init_weights_vit_timm)

    def classify(
        self,
        features: Float[Tensor, "b *grid d"],
        embedding: Float[Tensor, "b e"] | None = None,
        cells: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Return the logits of the statistics, with the embedding beside them."""
        dtype = self.classifier.weight.dtype
        tokens = nn.functional.gelu(self.embed(chosen_cells(features, cells).to(dtype))).float()
        deviation = (tokens.var(dim=1, correction=0) + LEAST_VARIANCE).sqrt()
        pooled = self.norm(torch.cat([tokens.amax(dim=1), tokens.mean(dim=1), deviation], dim=1))
        if embedding is not None:
            beside = nn.functional.gelu(self.embed_sample(embedding.to(dtype)))
            pooled = torch.cat([pooled, beside], dim=1)
        return self.classifier(self.dropout(pooled))


class LinearHead(Head):
    """The baseline "frozen + linear": a linear layer on the backbone's embedding."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(spec.in_dim, spec.classes)
        self.apply(init_weights_vit_timm)

    def classify(
        self,
        features: Float[Tensor, "b d"],
        embedding: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> Float[Tensor, "b c"]:
        """Return the logits of embeddings; it has nothing beside them, and no cells."""
        return self.classifier(self.dropout(features.to(self.classifier.weight.dtype)))
