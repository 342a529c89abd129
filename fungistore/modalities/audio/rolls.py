"""Copies of filter banks with noise on them, rolled along time: FUNGI's views of recordings."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from fungistore.modalities.requests import NoisyRolls
from fungistore.randomness import Stream


def noisy_rolls(
    bank: Float32[np.ndarray, "frames bins"], request: NoisyRolls, random: Stream
) -> Float32[np.ndarray, "views frames bins"]:
    """Return noisy copies of filter banks, each rolled by a random number of frames.

    Args:
        bank: in the scale in which noise is to be added: standardised, or as it was measured.
        request: how many copies, how much noise and how far.
        random: the sample's own stream.
    """
    strengths, places = random.uniform(2, request.count)
    shifts = np.floor(places * (2 * request.roll)).astype(np.int64) - request.roll
    views = _uniform(random, request.count, *bank.shape)
    views *= (strengths * request.noise).astype(np.float32)[:, None, None]
    views += bank
    for view, shift in zip(views, shifts.tolist(), strict=True):
        view[:] = np.roll(view, shift, axis=0)
    return views


def _uniform(random: Stream, *shape: int) -> NDArray[np.float32]:
    """Return float32 numbers uniform in [0, 1), two of a word: half the cost of `Stream.uniform`.

    A number is the upper 24 bits of half a word, which float32 holds exactly; the lower half first.
    """
    count = int(np.prod(shape, dtype=np.int64))
    halves = random.words((count + 1) // 2).astype("<u8").view("<u4")[:count]
    numbers = (halves >> np.uint32(8)).astype(np.float32)
    numbers *= np.float32(2.0**-24)
    return numbers.reshape(shape)
