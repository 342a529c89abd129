"""Views of texts: as they are, and copies without some words; each as the pieces of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fungistore.errors import UsageError
from fungistore.modalities.requests import WordDeletions
from fungistore.modalities.text.words import delete_words
from fungistore.modalities.views import Drawn, DrawnBatch, Inputs, ViewGroup, ViewRecipe
from fungistore.randomness import Stream

SHORTEST = 16  # what a view is padded to at least, in tokens


class Pieces(Protocol):
    """What cuts texts into a model's tokens; any number of threads may share one."""

    @property
    def max_length(self) -> int:
        """Tokens that the model is given at most, its special ones included."""

    @property
    def padding(self) -> int:
        """The id of a token that is not real."""

    def __call__(self, text: str) -> tuple[list[int], int]:
        """Return the ids of a text, special ones included, and how many it has in all."""


@runtime_checkable
class TakesTexts(Protocol):
    """What views of texts need to know of an encoder."""

    @property
    def pieces(self) -> Pieces:
        """Its tokenizer."""


def padded_length(length: int, longest: int) -> int:
    """Return what a view of some tokens is padded to: 16, 24, 32, 48, 64, ... tokens.

    It depends on the text alone, so that the text's features do; and there are two lengths between
    one and its double, so that few forwards serve a batch, and a fifth of the work is padding at
    most on average.
    """
    step = SHORTEST
    while step < length:
        if step * 3 // 2 >= length:
            return min(step * 3 // 2, longest)
        step *= 2
    return min(step, longest)


@dataclass(frozen=True)
class TextViews:
    """Copies of a text by a request, or where there is none the text as it is.

    What is drawn: ids [v, t], padded to one length, how many of them are real [v], and how many
    they would be if no end were left out [v].

    Attributes:
        pieces: of the encoder.
        request: the copies.
    """

    pieces: Pieces
    request: WordDeletions | None = None

    @cached_property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One group, whose size is the greatest length in tokens."""
        count = 1 if self.request is None else self.request.count
        return (ViewGroup(count, self.pieces.max_length),)

    def on(self, device: torch.device) -> TextViews:
        """Return the same: copies are cut into pieces by the loader."""
        return self

    def draw(self, item: str, random: Stream) -> Drawn:
        """Return the pieces of each copy."""
        copies = [item] if self.request is None else delete_words(item, self.request, random)
        found = [self.pieces(copy) for copy in copies]
        ids, lengths = _padded([one for one, _ in found], self.pieces)
        return ids, lengths, np.array([whole for _, whole in found])

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return ids [b, v, t] and which of them are real, bool [b, v, t]."""
        ids, lengths, _ = drawn
        real = torch.arange(ids.shape[-1]) < lengths[:, views, None]
        return ids[:, views].long(), real

    def lengths(self, drawn: DrawnBatch) -> Float[Tensor, " b"]:
        """Return the tokens of each text, with those that were left out."""
        return drawn[2][:, 0].float()


def _padded(
    pieces: Sequence[Sequence[int]], tokenizer: Pieces
) -> tuple[Int[np.ndarray, "v t"], Int[np.ndarray, " v"]]:
    lengths = np.array([len(one) for one in pieces])
    length = padded_length(int(lengths.max()), tokenizer.max_length)
    ids = np.full((len(pieces), length), tokenizer.padding, np.int32)
    for row, one in zip(ids, pieces, strict=True):
        row[: len(one)] = one
    return ids, lengths


def text_recipe(request: object, encoder: Any) -> ViewRecipe | None:
    """Return the recipe that a request becomes for an encoder, None where texts have no such.

    Raises:
        UsageError: the encoder does not say how it cuts texts.
    """
    if not isinstance(request, WordDeletions):
        return None
    if not isinstance(encoder, TakesTexts):
        raise UsageError(
            "the model takes no copies of texts",
            where=f"--model {encoder.family}:{encoder.name}",
            expected="an encoder with `pieces`, its tokenizer",
            hint="leave out simclr",
        )
    return TextViews(encoder.pieces, request)
