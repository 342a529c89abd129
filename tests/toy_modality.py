"""A modality that fungi does not know: short number sequences, and a transformer that takes them.

One file, installed as a plug-in by the tests: items, views, an encoder with a class token or mean
pooling and tokens of differing number, and objectives with views, with a bank and of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from html import escape
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoded, TokenGrid
from fungistore.backbones.families import BackboneCard
from fungistore.errors import ItemError, UsageError
from fungistore.fingerprint import Config
from fungistore.location import inline_uri
from fungistore.modalities.reading import uri_of_file
from fungistore.modalities.views import Drawn, DrawnBatch, Inputs, ViewGroup, ViewRecipe
from fungistore.objectives.objective import BankSpec, Heads, Needs, ViewOutputs
from fungistore.randomness import Stream

LONGEST = 16
WIDTH = 32
ATTENTION_HEADS = 2
POOLING = ("class", "mean")
ENTRY_POINTS = {
    "fungistore.modalities": {"numbers": "toy_modality:Numbers"},
    "fungistore.backbones": {"toy": "toy_modality:Toys"},
    "fungistore.objectives": {
        "thinned": "toy_modality:Thinned",
        "smooth": "toy_modality:Smooth",
    },
}


# ------------------------------------------------------------------ the modality


class NumbersError(ItemError):
    """A sequence that cannot be read."""


class Numbers:
    """Up to sixteen numbers between white space: in a file, a cell, or the text of a query."""

    name: ClassVar[str] = "numbers"
    item: ClassVar[str] = "sequence"
    items: ClassVar[str] = "sequences"
    error: ClassVar[type[ItemError]] = NumbersError
    suffixes: ClassVar[frozenset[str]] = frozenset({"num"})
    columns: ClassVar[tuple[str, ...]] = ("numbers",)

    def read(self, stream: IO[bytes]) -> NDArray[np.float32]:
        values = np.array(stream.read().decode().split(), np.float32)
        if not 0 < len(values) <= LONGEST:
            raise NumbersError(f"there are {len(values)} numbers, not 1 to {LONGEST}")
        return values

    def blank(self) -> NDArray[np.float32]:
        return np.zeros(1, np.float32)

    def query(self, text: str) -> str:
        if text.strip("0123456789.- ") == "":
            return inline_uri(text.encode())
        return uri_of_file(text, self.item)

    def show(self, item: NDArray[np.float32], caption: str) -> str:
        return f"<code title={escape(caption)!r}>{item.tolist()}</code>"

    def recipe(self, request: object, encoder: Any, view_size: str | int) -> ViewRecipe | None:
        return Thinning(request) if isinstance(request, Deletions) else None


# ------------------------------------------------------------------ views


@dataclass(frozen=True)
class Deletions:
    """A request: `count` views without some of the numbers, each left out at a `rate`."""

    count: int
    rate: float


@dataclass(frozen=True)
class Thinning:
    """The views that `Deletions` asks for; the first number always stays."""

    request: Deletions

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        return (ViewGroup(self.request.count, LONGEST),)

    def on(self, device: torch.device) -> Thinning:
        return self

    def draw(self, item: NDArray[np.float32], random: Stream) -> Drawn:
        kept = random.uniform(self.request.count, len(item)) >= self.request.rate
        kept[:, 0] = True
        views = np.zeros(kept.shape, np.float32)
        mask = np.arange(len(item)) < kept.sum(1)[:, None]
        views[mask] = np.tile(item, (self.request.count, 1))[kept]
        return views, mask

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        return tuple(array[:, views] for array in drawn)


@dataclass(frozen=True)
class Whole:
    """The view that embeddings are made of: the sequence as it is."""

    groups: ClassVar[tuple[ViewGroup, ...]] = (ViewGroup(1, LONGEST),)

    def on(self, device: torch.device) -> Whole:
        return self

    def draw(self, item: NDArray[np.float32], random: Stream) -> Drawn:
        return item, np.ones(len(item), np.bool_)

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        return tuple(array[:, None] for array in drawn)


# ------------------------------------------------------------------ the encoder


class Block(nn.Module):
    """Attention among real tokens, then a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(tokens)).unflatten(-1, (3, ATTENTION_HEADS, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None, :]
        )
        tokens = tokens + self.proj(attended.transpose(1, 2).flatten(2))
        return tokens + self.fc2(nn.functional.gelu(self.fc1(self.norm2(tokens))))


class Transformer(nn.Module):
    """Two blocks over the numbers' embeddings and a class token."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.embed = nn.Linear(1, WIDTH)
        self.positions = nn.Parameter(torch.zeros(LONGEST + 1, WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings [n, d] and the numbers' tokens [n, t, d]."""
        tokens = self.embed(values[..., None]) + self.positions[1 : values.shape[1] + 1]
        first = self.positions[:1].expand(len(tokens), 1, WIDTH)
        tokens, there = torch.cat([first, tokens], dim=1), nn.functional.pad(mask, (1, 0), value=1)
        for block in self.blocks:
            tokens = block(tokens, there)
        tokens = self.norm(tokens)
        if self.pooling == "class":
            return tokens[:, 0], tokens[:, 1:]
        real = tokens[:, 1:] * mask[..., None]
        return real.sum(1) / mask.sum(1, keepdim=True), tokens[:, 1:]


@dataclass(eq=False)
class Toy:
    """An encoder of sequences."""

    name: str
    module: Any
    target_layer: str
    dtype: torch.dtype = torch.float32

    family: ClassVar[str] = "toy"
    modality: ClassVar[str] = "numbers"
    embedding_dim: ClassVar[int] = WIDTH
    token_dim: ClassVar[int] = WIDTH
    token_shape: ClassVar[tuple[int, ...]] = (LONGEST,)
    lengths_differ: ClassVar[bool] = True
    is_thread_safe: ClassVar[bool] = True
    base_view: ClassVar[ViewRecipe] = Whole()

    @property
    def target(self) -> nn.Linear:
        layer: nn.Linear = self.module.get_submodule(self.target_layer)
        return layer

    @cached_property
    def weights_hash(self) -> str:
        return str(float(sum(p.double().sum() for p in self.module.state_dict().values())))

    @property
    def exact_from(self) -> nn.Module:
        block: nn.Module = self.module.blocks[int(self.target_layer.split(".")[1])]
        return block

    def identity(self) -> Config:
        return {"family": self.family, "model": self.name, "weights": self.weights_hash}

    def count_tokens(self, inputs: Inputs) -> int:
        return inputs[0].shape[-1]

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        if dtype == torch.int8 or compiled:
            raise UsageError("the toy is neither quantised nor compiled", where="--dtype")
        self.module.embed.to(dtype)
        self.module.positions.data = self.module.positions.data.to(dtype)
        for block in self.module.blocks:
            if block is self.exact_from:
                break
            block.to(dtype)
        self.dtype = dtype

    def run(self, inputs: Inputs) -> Encoded:
        values, mask = inputs
        embeddings, tokens = self.module(values.to(self.dtype), mask)
        return Encoded(embeddings, TokenGrid(tokens, mask))

    def class_token_split(self) -> None:
        return None


def build(pooling: str, weights: Path | None = None) -> Transformer:
    """Return the frozen transformer, with weights of a file or the family's own."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Transformer(pooling)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return model.eval().requires_grad_(False)


class Toys:
    """The family `toy`: one architecture, pooled in two ways."""

    modality: ClassVar[str] = "numbers"

    def load(
        self,
        name: str,
        *,
        weights: Path | None,
        image_size: int | None,
        target_layer: str | None,
        view_size: str | int,
    ) -> Toy:
        if name not in POOLING or image_size is not None:
            raise UsageError("no such toy", where=f"--model toy:{name}", expected=POOLING)
        return Toy(name, build(name, weights), target_layer or "blocks.1.proj")

    def find(self, pattern: str) -> list[str]:
        return [name for name in POOLING if fnmatch(name, f"*{pattern}*")]

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        for name in names:
            count = sum(parameter.numel() for parameter in build(name).parameters())
            yield BackboneCard(
                f"toy:{name}", count, None, None, WIDTH, "blocks.1.proj", self.modality
            )


# ------------------------------------------------------------------ objectives


@dataclass(frozen=True)
class Thinned:
    """Sequences with numbers left out must be alike, and unlike the mean of all others."""

    views: int = 3
    rate: float = 0.3
    head_dim: int = 8

    name: ClassVar[str] = "thinned"

    @property
    def needs(self) -> Needs:
        return Needs(
            heads={"projection": self.head_dim},
            views=Deletions(self.views, self.rate),
            bank=BankSpec("prototypes", width=self.head_dim, samples=None),
        )

    def latents(self, views: ViewOutputs, heads: Heads) -> Tensor:
        latents: Tensor = heads["projection"](views.embeddings)
        return latents

    def reduce(self, latents: Tensor) -> Tensor:
        return latents.mean(0, keepdim=True)

    def losses(self, views: ViewOutputs, heads: Heads, bank: Tensor | None) -> Tensor:
        assert bank is not None
        latents = self.latents(views, heads)
        return latents.var(1).sum(-1) - 0.1 * (latents - bank).square().sum((1, 2))


@dataclass(frozen=True)
class Smooth:
    """Neighbouring tokens must have like projections; tokens that are not real do not count."""

    head_dim: int = 4

    name: ClassVar[str] = "smooth"

    @property
    def needs(self) -> Needs:
        return Needs(heads={}, token_heads={"projection": self.head_dim}, tokens=True)

    def losses(self, views: ViewOutputs, heads: Mapping[str, nn.Linear], bank: None) -> Tensor:
        (grid,) = views.tokens
        assert grid.mask is not None
        latents = heads["projection"](grid.tokens)
        steps = (latents[:, :, 1:] - latents[:, :, :-1]).square().sum(-1) * grid.mask[:, :, 1:]
        return steps.sum((1, 2)) + 0.1 * (latents[:, :, 0]).square().sum((1, 2))
