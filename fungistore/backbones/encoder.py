"""What an encoder is to the rest of the program: inputs in, an embedding and tokens out.

Nothing here says what a sample is. timm's models are the first implementation
(`fungistore.backbones.timm_vit`); a plug-in's encoder has the attributes and methods of `Encoder`,
and comes from a family of its own (`fungistore.backbones.families`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fungistore.fingerprint import Config
from fungistore.modalities.views import Inputs, ViewRecipe


@dataclass(frozen=True)
class TokenGrid:
    """Tokens in their places, of any number of leading dimensions.

    Attributes:
        tokens: [..., *shape, d]: rows and columns of patches, or a sequence.
        mask: [..., *shape], True where a token is real; None where all of them are.
    """

    tokens: Tensor
    mask: Tensor | None = None

    def detach(self) -> TokenGrid:
        """Return the same tokens without their history."""
        return TokenGrid(self.tokens.detach(), self.mask)

    def unflatten(self, samples: int, views: int) -> TokenGrid:
        """Return a grid [b v ...] of one [n ...]."""
        mask = None if self.mask is None else self.mask.unflatten(0, (samples, views))
        return TokenGrid(self.tokens.unflatten(0, (samples, views)), mask)


def join_grids(grids: list[TokenGrid], dim: int = 0) -> TokenGrid:
    """Return grids of one shape as one, joined along a leading dimension."""
    masks = [grid.mask for grid in grids if grid.mask is not None]
    tokens = torch.cat([grid.tokens for grid in grids], dim=dim)
    return TokenGrid(tokens, torch.cat(masks, dim=dim) if masks else None)


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of n views.

    Attributes:
        embeddings: [n, e].
        grid: their tokens [n, *shape, d] after the final norm, without those that have no place,
            such as a class token; None where the encoder's tokens have no places.
    """

    embeddings: Tensor
    grid: TokenGrid | None


@runtime_checkable
class ClassTokenSplit(Protocol):
    """An encoder cut in two at its last attention's output projection, the target layer.

    After that layer only the class token can reach the embedding: a view's gradient is of rank
    one, and needs no more than two vectors of the view.
    """

    @property
    def projection(self) -> nn.Linear:
        """The target layer."""

    def trunk(self, inputs: Inputs) -> Tensor:
        """Return the tokens [n, t, d] that enter the last block, the class token first."""

    def attend(self, tokens: Tensor, inputs: Inputs) -> Tensor:
        """Return what enters the projection for the class token, float32 [n, i].

        `inputs` are those that the tokens were made of: they may say which tokens are real.
        """

    def tail(self, residual: Tensor, output: Tensor) -> Tensor:
        """Return embeddings [b, v, e] of the class tokens and projections [b, v, d], in float32."""

    def patches(self, tokens: Tensor, inputs: Inputs) -> TokenGrid:
        """Return the tokens [n, *shape, d] after the last block and the final norm."""


@runtime_checkable
class Encoder(Protocol):
    """A frozen model; a value of one run, whose module is changed by `prepare_trunk` alone."""

    @property
    def name(self) -> str:
        """Its name in its family."""

    @property
    def family(self) -> str:
        """Name of the family in the registry."""

    @property
    def modality(self) -> str:
        """Name of the modality whose items it takes."""

    @property
    def module(self) -> Any:
        """The torch module, in evaluation mode, parameters frozen; may be moved to a device."""

    @property
    def embedding_dim(self) -> int:
        """Width E of the embedding."""

    @property
    def token_dim(self) -> int:
        """Width D of the tokens."""

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Rows and columns, or the greatest length, of the tokens of a view of the own size.

        An encoder whose tokens have no places may say so by an attribute `has_places`: False.
        """

    @property
    def lengths_differ(self) -> bool:
        """Whether samples have different numbers of tokens, so that grids come with a mask."""

    @property
    def target_layer(self) -> str | None:
        """Dotted name of the layer whose per-sample gradient is taken; None: there is none.

        An encoder without one has no gradient features. It may say which layers there are to
        choose from by an attribute `candidates`: their names.
        """

    @property
    def target(self) -> nn.Linear | nn.Conv2d | None:
        """That layer. What enters it is [n, ...], or such samples one after the other."""

    @property
    def weights_hash(self) -> str:
        """Digest of every parameter and buffer."""

    @property
    def base_view(self) -> ViewRecipe:
        """The one view that embeddings are made of; nothing in it is random."""

    def identity(self) -> Config:
        """Return what decides its outputs, JSON-ready, for fingerprints."""

    def count_tokens(self, inputs: Inputs) -> int:
        """Return how many tokens one view of such inputs sends through the model, about."""

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Make what runs before `exact_from` fast, in place; `run` casts its inputs from then on.

        Args:
            dtype: precision of the trunk; int8 on CPUs alone.
            compiled: compile it.

        Raises:
            UsageError: it cannot.
        """

    @property
    def is_thread_safe(self) -> bool:
        """Whether several threads may `run` it at once; else a CPU computes on one core.

        It is, unless a forward keeps anything in the module or the encoder, as hooks do that note
        what a layer gave.
        """

    @property
    def exact_from(self) -> nn.Module | None:
        """The module from which on everything runs in float32; None: all of it does."""

    def run(self, inputs: Inputs) -> Encoded:
        """Return what the encoder makes of inputs [n, ...]; differentiable, where grad is on."""

    def class_token_split(self) -> ClassTokenSplit | None:
        """Return the prepared encoder cut at its target layer; None where it cannot be cut so."""


@runtime_checkable
class Remarking(Protocol):
    """An encoder that has to say how it came to its weights and its transform, or such views."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """One sentence each, for the user."""


def remarks_of(one: Encoder | ViewRecipe) -> tuple[str, ...]:
    """Return what an encoder has to say, or some views, if anything."""
    return one.remarks if isinstance(one, Remarking) else ()
