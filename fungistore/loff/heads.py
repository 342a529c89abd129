"""Compact classifiers of cached features: LOFF's projection and small ViT, and cheaper ones.

A feature map's channels differ by orders of magnitude (DINOv2 has a few huge ones). Unless the
spec says otherwise a head first standardises each channel with moments of the train split, which
it keeps with its weights; the paper projects right away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn

from fungistore.fingerprint import Config
from fungistore.loff.one_query import ClassTokenBlock, OneQueryPool
from fungistore.loff.options import HEADS, LINEAR
from fungistore.loff.pretrained import load_encoder
from fungistore.randomness import Stream
from fungistore.settings import build, require, to_json

NORM_EPSILON = 1e-6  # of timm's and DeiT's LayerNorms
POSITION_STD = 0.02  # and of the class token; DeiT's
LEAST_DEVIATION = 1e-6  # a channel that varies less than float16 can show is left unscaled
POOL_WIDTH, POOL_HEADS = 384, 6  # one attention layer of deit-s


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
POOLING = "attn-pool"


@dataclass(frozen=True)
class HeadSpec:
    """What a head is, apart from its weights.

    Attributes:
        kind: "deit-s", "deit-ti", "vit-xs", "attn-pool", or "linear" (of the backbone's embedding).
        in_dim: width of a patch token, or of the embedding.
        classes: number of classes.
        grid: (h, w) of the feature map in cells; None for "linear".
        init: "random", "timm" (class token, positions, blocks and final norm of timm's ImageNet
            weights), or a .safetensors file with those under timm's names.
        standardise: standardise each channel first; False is the paper's plain projection.
        drop_path: chance to skip a residual branch in the last block, less in earlier ones; 0.1
            is DeiT's.
        dropout: of embedded tokens, and of the classifier's input where there are no tokens.
        embedding_dim: width of the sample's embedding, where the head takes it beside the patches.
    """

    kind: str
    in_dim: int
    classes: int
    grid: tuple[int, int] | None = None
    init: str = "random"
    standardise: bool = True
    drop_path: float = 0.1
    dropout: float = 0.0
    embedding_dim: int | None = None

    def __post_init__(self) -> None:
        """Refuse unusable settings with UsageError."""
        require(self.kind in HEADS, "head.kind", " or ".join(HEADS), self.kind)
        require(self.in_dim > 0, "head.in_dim", "1 or more", self.in_dim)
        require(self.classes > 0, "head.classes", "1 or more", self.classes)
        if self.reads == "patches":
            is_grid = self.grid is not None and min(self.grid) > 0
            require(is_grid, "head.grid", "rows and columns of the feature map", self.grid)
        if self.embedding_dim is not None:
            require(self.embedding_dim > 0, "head.embedding_dim", "1 or more", self.embedding_dim)
            expected = f"no embedding beside what {LINEAR} reads"
            is_beside = self.reads == "patches"
            require(is_beside, "head.embedding_dim", expected, self.embedding_dim)
        is_possible = self.init == "random" or self.kind in ENCODERS
        expected = f'"random" for {self.kind}; others need {" or ".join(ENCODERS)}'
        require(is_possible, "head.init", expected, self.init)
        is_known = self.init in ("random", "timm") or self.init.endswith(".safetensors")
        require(is_known, "head.init", "random, timm or a .safetensors file", self.init)
        for name in ("drop_path", "dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"head.{name}", "0 or more, below 1", value)

    @property
    def reads(self) -> str:
        """The array of a feature set that the head takes first: "patches" or "embeddings"."""
        return "embeddings" if self.kind == LINEAR else "patches"

    @property
    def features(self) -> tuple[str, ...]:
        """All arrays that it takes."""
        return (self.reads,) if self.embedding_dim is None else (self.reads, "embeddings")

    def to_config(self) -> Config:
        """Return a JSON-ready dictionary; without the embedding where there is none, as ever."""
        config = to_json(self)
        if self.embedding_dim is None:
            del config["embedding_dim"]
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HeadSpec:
        """Read what `to_config` wrote.

        Raises:
            UsageError: an unknown field or an unusable value.
        """
        return build(cls, config, "head")


class Standardise(nn.Module):
    """Subtract a mean and divide by a deviation, channel by channel; at first (0, 1)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def set_moments(self, mean: Float[Tensor, " d"], deviation: Float[Tensor, " d"]) -> None:
        """Take the moments of the train split; a channel that never varies is only centred."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.where(deviation > LEAST_DEVIATION, 1.0))

    def forward(self, features: Float[Tensor, "b *grid d"]) -> Float[Tensor, "b *grid d"]:
        """Compute in float32, and return the type that was given."""
        return ((features.float() - self.mean) / self.deviation).to(features.dtype)


class Head(nn.Module):
    """A classifier of standardised features.

    `head(features)` takes features as they are stored, and the embeddings where the spec has them.
    Training augments in between: `head.classify(augmented)`, of what was `head.standardised(...)`.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.standardise = _standardise(spec, spec.in_dim)
        if spec.embedding_dim is not None:
            self.standardise_embedding = _standardise(spec, spec.embedding_dim)

    def forward(
        self, features: Float[Tensor, "b *grid d"], embedding: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b c"]:
        """Return the logits of features as they are stored."""
        return self.classify(*self.standardised(features, embedding))

    def standardised(
        self, features: Float[Tensor, "b *grid d"], embedding: Float[Tensor, "b e"] | None = None
    ) -> tuple[Float[Tensor, "b *grid d"], Float[Tensor, "b e"] | None]:
        """Standardise the features, and the embeddings by moments of their own.

        Raises:
            ValueError: there are embeddings, and the spec has none, or the other way round.
        """
        if (embedding is None) != (self.spec.embedding_dim is None):
            wanted = "no embedding" if embedding is not None else "an embedding"
            raise ValueError(f"this head takes {wanted} beside the patches")
        if embedding is not None:
            embedding = self.standardise_embedding(embedding)
        return self.standardise(features), embedding

    def classify(
        self,
        features: Float[Tensor, "b *grid d"],
        embedding: Float[Tensor, "b e"] | None = None,
        cells: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Return the logits of standardised features.

        Args:
            features: the features.
            embedding: of the same samples, where the spec has it.
            cells: those that are looked at, as numbers row by row; None: all.
        """
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Parameters of two and more dimensions that decay would harm, as timm asks for them."""
        return {"cls_token", "pos_embed"}


class TransformerHead(Head):
    """LOFF's classifier: projection, LayerNorm, class token, positions, a small ViT (section 3).

    From the class token on, parameters have timm's names and meaning.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        assert spec.grid is not None  # HeadSpec has checked it
        size = ENCODERS[spec.kind]
        self.embed = _projection(spec.in_dim, size.width)
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
            self.embed_sample = _projection(spec.embedding_dim, size.width)
        self.apply(init_weights_vit_timm)
        nn.init.trunc_normal_(self.cls_token, std=POSITION_STD)
        nn.init.trunc_normal_(self.pos_embed, std=POSITION_STD)

    def classify(
        self,
        features: Float[Tensor, "b h w d"],
        embedding: Float[Tensor, "b e"] | None = None,
        cells: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Return the logits of the class token, which begins with the embedding added to it."""
        dtype = self.classifier.weight.dtype
        tokens = self.embed(_chosen(features, cells).to(dtype))
        tokens = tokens + _positions(self.pos_embed[:, 1:], cells)
        first = self.cls_token + self.pos_embed[:, :1]
        if embedding is not None:
            first = first + self.embed_sample(embedding.to(dtype))[:, None]
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.blocks(self.dropout(tokens))
        return self.classifier(self.norm(tokens[:, 0]))


class PoolingHead(Head):
    """Projection, LayerNorm, positions, and one learned query that attends to all cells."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        assert spec.grid is not None  # HeadSpec has checked it
        self.embed = _projection(spec.in_dim, POOL_WIDTH)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.grid[0] * spec.grid[1], POOL_WIDTH))
        self.dropout = nn.Dropout(spec.dropout)
        self.pool = OneQueryPool(
            POOL_WIDTH, num_heads=POOL_HEADS, norm_layer=nn.LayerNorm, act_layer=nn.GELU
        )
        self.norm = nn.LayerNorm(POOL_WIDTH, eps=NORM_EPSILON)
        self.classifier = nn.Linear(POOL_WIDTH, spec.classes)
        if spec.embedding_dim is not None:
            self.embed_sample = _projection(spec.embedding_dim, POOL_WIDTH)
        self.apply(init_weights_vit_timm)
        nn.init.trunc_normal_(self.pos_embed, std=POSITION_STD)

    def classify(
        self,
        features: Float[Tensor, "b h w d"],
        embedding: Float[Tensor, "b e"] | None = None,
        cells: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Return the logits of the pooled token, with the embedding added to it."""
        dtype = self.classifier.weight.dtype
        tokens = self.embed(_chosen(features, cells).to(dtype))
        pooled = self.pool(self.dropout(tokens + _positions(self.pos_embed, cells)))
        if embedding is not None:
            pooled = pooled + self.dropout(self.embed_sample(embedding.to(dtype)))
        return self.classifier(self.norm(pooled))


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


def build_head(spec: HeadSpec, *, seed: int) -> Head:
    """Build a head on the CPU, in float32, its weights decided by the spec and the seed.

    torch's global random state is left as it was.

    Args:
        spec: what to build.
        seed: of the initial weights; a stream of its own.

    Raises:
        FungiError: timm's weights could not be had.
        UsageError: the weights file is missing, unreadable, or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs too, which are not forked
        torch.default_generator.manual_seed(
            int(Stream(seed, "head", "weights").words(1)[0] >> np.uint64(1))
        )
        if spec.kind == POOLING:
            return PoolingHead(spec)
        if spec.kind == LINEAR:
            return LinearHead(spec)
        head = TransformerHead(spec)
        if spec.init != "random":
            assert spec.grid is not None  # HeadSpec has checked it
            load_encoder(head, spec.grid, spec.init, ENCODERS[spec.kind].timm)
        return head


def _standardise(spec: HeadSpec, channels: int) -> nn.Module:
    return Standardise(channels) if spec.standardise else nn.Identity()


def _chosen(
    features: Float[Tensor, "b h w d"], cells: Int[Tensor, "b k"] | None
) -> Float[Tensor, "b n d"]:
    tokens = features.flatten(1, 2)
    if cells is None:
        return tokens
    return tokens.gather(1, cells[..., None].expand(-1, -1, tokens.shape[-1]))


def _positions(
    positions: Float[Tensor, "1 n d"], cells: Int[Tensor, "b k"] | None
) -> Float[Tensor, "_ k d"]:
    return positions if cells is None else nn.functional.embedding(cells, positions[0])


def _projection(in_dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, width), nn.LayerNorm(width, eps=NORM_EPSILON))
