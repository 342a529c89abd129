"""Views of texts: as they are, or copies without some words, or with masked pieces."""

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
from fungistore.modalities.requests import MaskedWords, WordDeletions
from fungistore.modalities.text.masking import count_masked, masked_copies
from fungistore.modalities.text.pieces import Maskable, Pieces
from fungistore.modalities.text.words import delete_words
from fungistore.modalities.views import Drawn, DrawnBatch, Inputs, ViewGroup, ViewRecipe
from fungistore.randomness import Stream

SHORTEST = 16  # what a view is padded to at least, in tokens
NOTHING = -1  # is masked, in place of an id


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
        return _rendered(drawn, views)

    def lengths(self, drawn: DrawnBatch) -> Float[Tensor, " b"]:
        """Return the tokens of each text, with those that were left out."""
        return drawn[2][:, 0].float()


@dataclass(frozen=True)
class MaskedTexts:
    """Copies of a text with masked pieces.

    What is drawn: ids [v, t] and how many of them are real [v], as of `TextViews`; the places of
    masked pieces [v, k], and the ids of what stood there [v, k]. How many places there are depends
    on t alone, so that equally long texts are computed together; those that are left over are 0,
    with NOTHING there.

    Attributes:
        pieces: of the encoder.
        request: the copies.
    """

    pieces: Maskable
    request: MaskedWords

    @cached_property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One group, whose size is the greatest length in tokens."""
        return (ViewGroup(self.request.count, self.pieces.max_length),)

    def on(self, device: torch.device) -> MaskedTexts:
        """Return the same: copies are masked by the loader."""
        return self

    def draw(self, item: str, random: Stream) -> Drawn:
        """Return the pieces of each copy, and what is masked."""
        ids, _, own = self.pieces.of_text(item)
        copies, places = masked_copies(ids, own, self.request, self.pieces, random)
        padded, lengths = _padded(copies.tolist(), self.pieces)
        spare = count_masked(padded.shape[1], self.request.rate) - places.shape[1]
        hidden = np.asarray(ids, np.int32)[places]
        left_over = ((0, 0), (0, spare))
        return (
            padded,
            lengths,
            np.pad(places, left_over),
            np.pad(hidden, left_over, constant_values=NOTHING),
        )

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return ids [b, v, t] and which of them are real, bool [b, v, t]."""
        return _rendered(drawn, views)


def _rendered(drawn: DrawnBatch, views: slice) -> Inputs:
    ids, lengths = drawn[:2]
    real = torch.arange(ids.shape[-1]) < lengths[:, views, None]
    return ids[:, views].long(), real


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
        UsageError: the encoder does not say how it cuts texts, or cannot mask any of them.
    """
    if isinstance(request, MaskedWords):
        return MaskedTexts(_maskable(encoder), request)
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


def _maskable(encoder: Any) -> Maskable:
    pieces = getattr(encoder, "pieces", None)
    if isinstance(pieces, Maskable) and pieces.masks:
        return pieces
    raise UsageError(
        "the model has no token that stands for a masked word",
        where=f"--model {encoder.family}:{encoder.name}",
        expected="a tokenizer with a mask token, as BERT's [MASK], or with T5's <extra_id_0>",
        hint="leave out mlm; or name the token in the model's tokenizer_config.json: "
        '"mask_token": "[MASK]"',
    )
