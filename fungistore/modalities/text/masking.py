"""Copies of a text's pieces, some of them masked: the views of masked language modelling.

Source: Devlin et al. 2019 (BERT), section 3.1, "Task #1: Masked LM".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from fungistore.modalities.requests import MaskedWords
from fungistore.modalities.text.pieces import Maskable
from fungistore.randomness import Stream

MASKED, REPLACED = 0.8, 0.1  # of the chosen pieces, by the rule "bert"; the rest stays


def count_masked(pieces: int, rate: float) -> int:
    """Return how many of some pieces are masked: a share of them, at least one if there are any."""
    return min(pieces, max(1, round(rate * pieces)))


def masked_copies(
    ids: Sequence[int],
    own: Sequence[bool],
    request: MaskedWords,
    pieces: Maskable,
    random: Stream,
) -> tuple[Int[np.ndarray, "v t"], Int[np.ndarray, "v k"]]:
    """Return copies of a text's ids with masked pieces, and the places of these, ascending.

    Args:
        ids: of the text.
        own: which of them may be masked.
        request: how many copies, and what is masked in them.
        pieces: the tokenizer.
        random: the stream that decides; nothing else does.
    """
    can_go = np.flatnonzero(own)
    count = count_masked(len(can_go), request.rate)
    copies = np.tile(np.asarray(ids, np.int32), (request.count, 1))
    places = np.zeros((request.count, count), np.int32)
    masks = np.resize(np.asarray(pieces.masks, np.int32), count)
    for copy, chosen in zip(copies, places, strict=True):
        chosen[:] = np.sort(can_go[random.choice(len(can_go), count)])
        is_masked = np.ones(count, bool)
        if request.rule == "bert":
            which, any_piece = random.uniform(2, count)
            is_masked = which < MASKED
            is_other = ~is_masked & (which < MASKED + REPLACED)
            others = pieces.ordinary[(any_piece * len(pieces.ordinary)).astype(np.int64)]
            copy[chosen[is_other]] = others[is_other]
        copy[chosen[is_masked]] = masks[is_masked]
    return copies, places
