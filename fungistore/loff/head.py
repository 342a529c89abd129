"""What a head is: its specification, and what all kinds of heads share.

A feature map's channels differ by orders of magnitude (DINOv2 has a few huge ones). Unless the
spec says otherwise a head first standardises each channel with moments of the train split, which
it keeps with its weights; the paper projects right away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fungistore.fingerprint import Config
from fungistore.loff.options import HEADS, LINEAR, TRANSFORMERS
from fungistore.settings import build, require, to_json

NORM_EPSILON = 1e-6  # of timm's and DeiT's LayerNorms
POSITION_STD = 0.02  # and of the class token; DeiT's
LEAST_DEVIATION = 1e-6  # a channel that varies less than float16 can show is left unscaled


@dataclass(frozen=True)
class HeadSpec:
    """What a head is, apart from its weights.

    Attributes:
        kind: "deit-s", "deit-ti", "vit-xs", "attn-pool", "stat-pool", or "linear" (of embeddings).
        in_dim: width of a patch token, or of the embedding.
        classes: number of classes.
        grid: (h, w) of the feature map in cells, (1, tokens) of a sequence; None for "linear".
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
        is_possible = self.init == "random" or self.kind in TRANSFORMERS
        expected = f'"random" for {self.kind}; others need {" or ".join(TRANSFORMERS)}'
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

    Attributes:
        piece_cells: of a batch, that a core takes at least on a CPU: enough to be worth a thread.
    """

    piece_cells: ClassVar[int] = 4096  # 16 maps of 16 x 16 (measured)

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


def _standardise(spec: HeadSpec, channels: int) -> nn.Module:
    return Standardise(channels) if spec.standardise else nn.Identity()


def chosen_cells(
    features: Float[Tensor, "b *grid d"], cells: Int[Tensor, "b k"] | None
) -> Float[Tensor, "b n d"]:
    """Return the tokens of all cells, or of those that are looked at."""
    tokens = features.flatten(1, -2)
    if cells is None:
        return tokens
    return tokens.gather(1, cells[..., None].expand(-1, -1, tokens.shape[-1]))


def positions_of(
    positions: Float[Tensor, "1 n d"], cells: Int[Tensor, "b k"] | None
) -> Float[Tensor, "_ k d"]:
    """Return the positions of these cells."""
    return positions if cells is None else nn.functional.embedding(cells, positions[0])


def projection(in_dim: int, width: int) -> nn.Sequential:
    """Return a linear layer and a norm."""
    return nn.Sequential(nn.Linear(in_dim, width), nn.LayerNorm(width, eps=NORM_EPSILON))
