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
from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn

from fungistore.fingerprint import Config
from fungistore.loff.options import HEADS
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
POOLING, LINEAR = "attn-pool", "linear"


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
    """

    kind: str
    in_dim: int
    classes: int
    grid: tuple[int, int] | None = None
    init: str = "random"
    standardise: bool = True
    drop_path: float = 0.1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse unusable settings with UsageError."""
        require(self.kind in HEADS, "head.kind", " or ".join(HEADS), self.kind)
        require(self.in_dim > 0, "head.in_dim", "1 or more", self.in_dim)
        require(self.classes > 0, "head.classes", "1 or more", self.classes)
        if self.reads == "patches":
            is_grid = self.grid is not None and min(self.grid) > 0
            require(is_grid, "head.grid", "rows and columns of the feature map", self.grid)
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
        """The array of a feature set that the head takes: "patches" or "embeddings"."""
        return "embeddings" if self.kind == LINEAR else "patches"

    def to_config(self) -> Config:
        """Return a JSON-ready dictionary."""
        return to_json(self)

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

    `head(features)` takes features as they are stored. Training augments in between:
    `head.classify(augmented)`, of what was `head.standardise(features)`.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.standardise = Standardise(spec.in_dim) if spec.standardise else nn.Identity()

    def forward(self, features: Float[Tensor, "b *grid d"]) -> Float[Tensor, "b c"]:
        """Return the logits of features as they are stored."""
        return self.classify(self.standardise(features))

    def classify(self, features: Float[Tensor, "b *grid d"]) -> Float[Tensor, "b c"]:
        """Return the logits of standardised features."""
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
        blocks = [Block(size.width, size.heads, qkv_bias=True, drop_path=rate) for rate in rates]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(size.width, eps=NORM_EPSILON)
        self.classifier = nn.Linear(size.width, spec.classes)
        self.apply(init_weights_vit_timm)
        nn.init.trunc_normal_(self.cls_token, std=POSITION_STD)
        nn.init.trunc_normal_(self.pos_embed, std=POSITION_STD)

    def classify(self, features: Float[Tensor, "b h w d"]) -> Float[Tensor, "b c"]:
        """Return the logits of the class token."""
        tokens = self.embed(features.flatten(1, 2).to(self.classifier.weight.dtype))
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.blocks(self.dropout(tokens + self.pos_embed))
        return self.classifier(self.norm(tokens[:, 0]))


class PoolingHead(Head):
    """Projection, LayerNorm, positions, and one learned query that attends to all cells."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        assert spec.grid is not None  # HeadSpec has checked it
        self.embed = _projection(spec.in_dim, POOL_WIDTH)
        self.pos_embed = nn.Parameter(torch.empty(1, spec.grid[0] * spec.grid[1], POOL_WIDTH))
        self.dropout = nn.Dropout(spec.dropout)
        self.pool = AttentionPoolLatent(
            POOL_WIDTH, num_heads=POOL_HEADS, norm_layer=nn.LayerNorm, act_layer=nn.GELU
        )
        self.norm = nn.LayerNorm(POOL_WIDTH, eps=NORM_EPSILON)
        self.classifier = nn.Linear(POOL_WIDTH, spec.classes)
        self.apply(init_weights_vit_timm)
        nn.init.trunc_normal_(self.pos_embed, std=POSITION_STD)

    def classify(self, features: Float[Tensor, "b h w d"]) -> Float[Tensor, "b c"]:
        """Return the logits of the pooled token."""
        tokens = self.embed(features.flatten(1, 2).to(self.classifier.weight.dtype))
        pooled = self.pool(self.dropout(tokens + self.pos_embed))
        return self.classifier(self.norm(pooled))


class LinearHead(Head):
    """The baseline "frozen + linear": a linear layer on the backbone's embedding."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(spec.in_dim, spec.classes)
        self.apply(init_weights_vit_timm)

    def classify(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Return the logits of embeddings."""
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


def _projection(in_dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, width), nn.LayerNorm(width, eps=NORM_EPSILON))
