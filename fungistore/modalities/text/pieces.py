"""What cuts texts into a model's tokens, as views of texts see it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int


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
class Maskable(Pieces, Protocol):
    """A tokenizer that can mask what it makes of a text."""

    @property
    def masks(self) -> tuple[int, ...]:
        """Ids that stand for masked pieces, one after the other in turn; () where it has none."""

    @property
    def ordinary(self) -> Int[np.ndarray, " n"]:
        """Ids of its vocabulary that are no special token's, ascending."""

    def of_text(self, text: str) -> tuple[list[int], int, list[bool]]:
        """Return what a call does, and which of the ids are pieces of the text itself.

        Special tokens are not, wherever they come from, nor what goes before each text. A piece
        that stands for an unknown word is one: a text may have no other.
        """
