"""An audio spectrogram transformer: filter banks in, an embedding and tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungistore.backbones.audio.positions import Grid
from fungistore.backbones.encoder import Encoded, TokenGrid
from fungistore.choices import GradientTokens
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.compiling import compile_for_shapes
from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.recipes import Statistics, WholeBank
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted

PREFIX = 2  # tokens without a place: the class token and the distillation token


@dataclass(eq=False, kw_only=True)
class SpectrogramEncoder:
    """A frozen transformer of transformers' AST; make one with `load_ast` or `load_ssast`.

    Attributes:
        name: its name in the family.
        module: in evaluation mode, its positions those of `frames`.
        filter_bank: what it is shown of a recording.
        frames: how many of them.
        statistics: mean and deviation of the filter banks that it is used on.
        grid: patches along frequency and time.
        pooling: "class": the mean of its two prefix tokens; "mean": that of the patches' tokens.
        gradient_tokens: "first": the path from the second prefix token to the embedding has no
            gradient, as in FUNGI's reference code; the embedding is the same.
        target_layer: the layer whose per-sample gradient is taken; None: none is.
        candidates: layers that may be differentiated, for who has to name one.
        weights_hash: digest of the weights as they were stored.
        config_hash: digest of what else decides what the module computes.
        said: what the user should know of the model.
    """

    name: str
    module: Any
    filter_bank: FilterBank
    frames: int
    statistics: Statistics
    grid: Grid
    pooling: str
    gradient_tokens: GradientTokens
    target_layer: str | None
    candidates: Sequence[str]
    weights_hash: str
    config_hash: str
    said: tuple[str, ...] = ()
    dtype: torch.dtype = field(default=torch.float32, init=False)

    family: ClassVar[str] = "audio"
    modality: ClassVar[str] = "audio"
    lengths_differ: ClassVar[bool] = False
    is_thread_safe: ClassVar[bool] = True

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding, and of a token."""
        return int(self.module.config.hidden_size)

    @property
    def token_dim(self) -> int:
        """Width of a token."""
        return self.embedding_dim

    @property
    def token_shape(self) -> Grid:
        """Patches along frequency, from low to high, and along time."""
        return self.grid

    @property
    def target(self) -> nn.Linear | nn.Conv2d | None:
        """The target layer itself."""
        if self.target_layer is None:
            return None
        layer: nn.Linear = self.module.get_submodule(self.target_layer)
        return layer

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
            "family": self.family,
            "model": type(self.module).__name__,
            "weights": self.weights_hash,
            "config": self.config_hash,
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
    def _blocks(self) -> nn.ModuleList:
        return next(one for one in self.module.modules() if isinstance(one, nn.ModuleList))

    @property
    def exact_from(self) -> nn.Module | None:
        """The last block, where the target layer is in it."""
        last = self._blocks[-1]
        is_last = self.target is None or any(one is self.target for one in last.modules())
        return last if is_last else None

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Make the embeddings and all blocks but the last one fast, in place.

        Raises:
            UsageError: it is int8.
        """
        if dtype == torch.int8:
            raise UsageError(
                "sounds have no trunk of eight bits",
                where=f"--dtype int8, --model {self.family}:{self.name}",
                expected="float32, bfloat16 or float16",
                hint="--dtype bfloat16 where the CPU or GPU multiplies it fast",
            )
        if self.exact_from is None:
            return
        for part in (self.module.embeddings, *self._blocks[:-1]):
            part.to(dtype)
            if compiled:
                compile_for_shapes(part)
        self.dtype = dtype

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
