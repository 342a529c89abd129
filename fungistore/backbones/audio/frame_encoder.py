"""What encoders of sounds share whose tokens are frames: as many as a recording is long."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungistore.backbones.audio.family import FAMILY, AudioSettings
from fungistore.backbones.encoder import Encoded, TokenGrid
from fungistore.backbones.target_layers import differentiable, refuse_other_layer
from fungistore.backbones.transformers_encoder import TransformersEncoder
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted

PROJECTION = "self_attn.out_proj", "attention.out_proj"  # of an attention, as the models name it


@dataclass(eq=False, kw_only=True)
class FrameEncoder(TransformersEncoder):
    """A frozen encoder whose embedding is the mean over a recording's own tokens."""

    family: ClassVar[str] = FAMILY
    modality: ClassVar[str] = "audio"
    items: ClassVar[str] = "sounds"
    lengths_differ: ClassVar[bool] = True

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

    @abstractmethod
    def tokens(self, inputs: Inputs) -> tuple[Float[Tensor, "n t d"], Bool[Tensor, "n t"]]:
        """Return the tokens after the final norm, and which of them are a recording's own."""

    @abstractmethod
    def shown(self) -> Config:
        """Return what decides what the module is shown of a recording."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """How recordings become embeddings, in words."""
        frames = f"{counted(self.longest, 'frame')} ({self.longest / 100:g} s)"
        own = f"the embedding is the mean of a recording's own tokens, of at most {frames}"
        return (own, *self.said)

    def identity(self) -> Config:
        """Return model, weights, pooling, and what the model is shown."""
        return {
            **self.of_the_model(),
            "pooling": "mean",
            **self.shown(),
        }

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
