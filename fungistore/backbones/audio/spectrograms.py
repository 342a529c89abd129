"""An audio spectrogram transformer: filter banks in, an embedding and tokens out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from fungistore.backbones.audio.positions import Grid
from fungistore.backbones.encoder import Encoded, TokenGrid
from fungistore.backbones.transformers_encoder import TransformersEncoder
from fungistore.choices import GradientTokens
from fungistore.fingerprint import Config
from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.recipes import Statistics, WholeBank
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted

PREFIX = 2  # tokens without a place: the class token and the distillation token


@dataclass(eq=False, kw_only=True)
class SpectrogramEncoder(TransformersEncoder):
    """A frozen transformer of transformers' AST; make one with `load_ast` or `load_ssast`.

    Its module has the positions of `frames`.

    Attributes:
        filter_bank: what it is shown of a recording.
        frames: how many of them.
        statistics: mean and deviation of the filter banks that it is used on.
        grid: patches along frequency and time.
        pooling: "class": the mean of its two prefix tokens; "mean": that of the patches' tokens.
        gradient_tokens: "first": the path from the second prefix token to the embedding has no
            gradient, as in FUNGI's reference code; the embedding is the same.
    """

    filter_bank: FilterBank
    frames: int
    statistics: Statistics
    grid: Grid
    pooling: str
    gradient_tokens: GradientTokens

    family: ClassVar[str] = "audio"
    modality: ClassVar[str] = "audio"
    items: ClassVar[str] = "sounds"
    lengths_differ: ClassVar[bool] = False

    @property
    def token_shape(self) -> Grid:
        """Patches along frequency, from low to high, and along time."""
        return self.grid

    @cached_property
    def base_view(self) -> ViewRecipe:
        """The recording as it is."""
        return WholeBank(self.filter_bank, self.frames, self.statistics)

    @property
    def remarks(self) -> tuple[str, ...]:
        """How recordings become embeddings, in words."""
        of_tokens = "the class and distillation tokens'" if self.pooling == "class" else "patches'"
        mean, deviation = self.statistics
        seconds = self.frames * self.filter_bank.frame_shift_ms / 1000
        shown = (
            f"the embedding is {of_tokens} mean, of at most {counted(self.frames, 'frame')} "
            f"({seconds:g} s), standardised by mean {mean:g} and deviation {deviation:g}"
        )
        first = "gradients are those of the first token alone"
        return (shown, *([first] if self.gradient_tokens == "first" else ()), *self.said)

    def identity(self) -> Config:
        """Return model, weights, filter banks, pooling and which tokens have gradients."""
        return {
            **self.of_the_model(),
            "filter_bank": self.filter_bank.identity(),
            "frames": self.frames,
            "statistics": list(self.statistics),
            "pooling": self.pooling,
            "gradient_tokens": self.gradient_tokens,
        }

    def count_tokens(self, inputs: Inputs) -> int:
        """Return the number of tokens of a view: the same for all."""
        return PREFIX + prod(self.grid)

    @property
    def blocks(self) -> nn.ModuleList:
        """Its layers."""
        return next(one for one in self.module.modules() if isinstance(one, nn.ModuleList))

    @property
    def before_blocks(self) -> tuple[nn.Module]:
        """The embeddings of patches."""
        return (self.module.embeddings,)

    def run(self, inputs: Inputs) -> Encoded:
        """Return the embeddings and tokens of filter banks [n, frames, bins]."""
        tokens = self.module(input_values=inputs[0].to(self.dtype)).last_hidden_state
        places = tokens[:, PREFIX:]
        embeddings = places.mean(1) if self.pooling == "mean" else self._prefix_of(tokens)
        return Encoded(embeddings, TokenGrid(places.unflatten(1, self.grid)))

    def _prefix_of(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n d"]:
        first, second = tokens[:, 0], tokens[:, 1]
        return (first + (second.detach() if self.gradient_tokens == "first" else second)) / 2

    def class_token_split(self) -> None:
        """Return None: two tokens are pooled, so that a view's gradient is not of rank one."""
        return None
