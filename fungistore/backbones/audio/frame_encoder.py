"""What encoders of sounds share whose tokens are frames: as many as a recording is long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungistore.backbones.audio.family import FAMILY, AudioSettings
from fungistore.backbones.encoder import Encoded, TokenGrid
from fungistore.backbones.target_layers import differentiable, refuse_other_layer
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.compiling import compile_for_shapes
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted

PROJECTION = "self_attn.out_proj", "attention.out_proj"  # of an attention, as the models name it


@dataclass(eq=False, kw_only=True)
class FrameEncoder(ABC):
    """A frozen encoder whose embedding is the mean over a recording's own tokens.

    Attributes:
        name: its name in the family.
        module: in evaluation mode.
        target_layer: the layer whose per-sample gradient is taken; None: none is.
        candidates: layers that may be differentiated, for who has to name one.
        weights_hash: digest of the weights.
        config_hash: digest of what else decides what the module computes.
        said: what the user should know of the model.
    """

    name: str
    module: Any
    target_layer: str | None
    candidates: Sequence[str]
    weights_hash: str
    config_hash: str
    said: tuple[str, ...] = ()
    dtype: torch.dtype = field(default=torch.float32, init=False)

    family: ClassVar[str] = FAMILY
    modality: ClassVar[str] = "audio"
    lengths_differ: ClassVar[bool] = True
    is_thread_safe: ClassVar[bool] = True

    @property
    @abstractmethod
    def base_view(self) -> ViewRecipe:
        """The recording as it is."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Frames of ten milliseconds that are kept of a recording."""

    @property
    @abstractmethod
    def token_shape(self) -> tuple[int]:
        """The greatest length in tokens."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks in line."""

    @property
    @abstractmethod
    def before_blocks(self) -> Iterable[nn.Module]:
        """What runs before them."""

    @abstractmethod
    def tokens(self, inputs: Inputs) -> tuple[Float[Tensor, "n t d"], Bool[Tensor, "n t"]]:
        """Return the tokens after the final norm, and which of them are a recording's own."""

    @abstractmethod
    def shown(self) -> Config:
        """Return what decides what the module is shown of a recording."""

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding, and of a token."""
        return int(self.module.config.hidden_size)

    @property
    def token_dim(self) -> int:
        """Width of a token."""
        return self.embedding_dim

    @property
    def target(self) -> nn.Linear | nn.Conv2d | None:
        """The target layer itself."""
        if self.target_layer is None:
            return None
        layer: nn.Linear = self.module.get_submodule(self.target_layer)
        return layer

    @property
    def remarks(self) -> tuple[str, ...]:
        """How recordings become embeddings, in words."""
        frames = f"{counted(self.longest, 'frame')} ({self.longest / 100:g} s)"
        own = f"the embedding is the mean of a recording's own tokens, of at most {frames}"
        return (own, *self.said)

    def identity(self) -> Config:
        """Return model, weights, pooling, and what the model is shown."""
        return {
            "family": self.family,
            "model": type(self.module).__name__,
            "weights": self.weights_hash,
            "config": self.config_hash,
            "pooling": "mean",
            **self.shown(),
        }

    @property
    def exact_from(self) -> nn.Module | None:
        """The last block, where the target layer is in it."""
        last = self.blocks[-1]
        is_last = self.target is None or any(one is self.target for one in last.modules())
        return last if is_last else None

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Make all that runs before the last block fast, in place.

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
        for part in (*self.before_blocks, *self.blocks[:-1]):
            part.to(dtype)
        for block in self.blocks[:-1] if compiled else ():
            compile_for_shapes(block)
        self.dtype = dtype

    def run(self, inputs: Inputs) -> Encoded:
        """Return the embeddings and tokens of views."""
        tokens, own = self.tokens(inputs)
        weights = own.to(tokens.dtype)[..., None]
        return Encoded((tokens * weights).sum(1) / weights.sum(1), TokenGrid(tokens, own))

    def class_token_split(self) -> None:
        """Return None: all tokens are pooled, so that a view's gradient is not of rank one."""
        return None


def target_layer_of(module: nn.Module, settings: AudioSettings) -> tuple[str | None, list[str]]:
    """Return the layer that is differentiated, and those that might be.

    Raises:
        UsageError: the user names one that the module does not have, or a pooling.
    """
    if settings.pooling not in (None, "mean"):
        raise UsageError(
            "the model has no class token",
            where=f"--pooling {settings.pooling}, --model {FAMILY}:{settings.name}",
            expected="mean",
            hint="leave it out",
        )
    candidates = differentiable(module)
    if settings.target_layer is not None:
        refuse_other_layer(module, settings.target_layer)
        return settings.target_layer, candidates
    found = [name for name in candidates if name.endswith(PROJECTION)]
    return (found[-1] if found else None), candidates
