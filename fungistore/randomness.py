"""Explicit, counter-based randomness: every stream is named, none depends on what ran before it.

Only the raw output of NumPy's Philox bit generator is used, which NumPy promises never to change
(NEP 19); its distribution methods carry no such promise, so uniforms and normals are made here.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_DOUBLE_BITS = 53


def derive_key(seed: int, *names: str) -> NDArray[np.uint64]:
    """Return the 128-bit Philox key of the stream called `names` under `seed`; shape [2]."""
    text = "\0".join((str(seed), *names))
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"fungi").digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


class Stream:
    """A named stream of random numbers, independent of every other name.

    Args:
        seed: the user's seed.
        names: what the stream is for, for example ("views", "dino", sample id).
        block: skips to the start of the stream's block-th stretch of 2^128 numbers.
    """

    def __init__(self, seed: int, *names: str, block: int = 0) -> None:
        counter = np.array([0, 0, block, 0], dtype=np.uint64)
        self._bits = np.random.Philox(counter=counter, key=derive_key(seed, *names))

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` uniform 64-bit words."""
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64)

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """Return float64 numbers uniform in [0, 1)."""
        words = self.words(int(np.prod(shape, dtype=np.int64)))
        top = (words >> np.uint64(64 - _DOUBLE_BITS)).astype(np.float64)
        return (top * 2.0**-_DOUBLE_BITS).reshape(shape)

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """Return float64 standard normal numbers, by the Box-Muller transform."""
        count = int(np.prod(shape, dtype=np.int64))
        radius, angle = self.uniform(2, (count + 1) // 2)
        radius = np.sqrt(-2.0 * np.log1p(-radius))
        pairs = np.concatenate(
            [radius * np.cos(2 * np.pi * angle), radius * np.sin(2 * np.pi * angle)]
        )
        return pairs[:count].reshape(shape)

    def choice(self, population: int, count: int) -> NDArray[np.int64]:
        """Return `count` distinct integers below `population`, in random order.

        Raises:
            ValueError: fewer than `count` integers are there to choose from.
        """
        if count > population:
            raise ValueError(f"cannot choose {count} of {population}")
        if 2 * count > population:  # rejection would crawl: permute instead
            return np.argsort(self.uniform(population), kind="stable")[:count].astype(np.int64)
        chosen: dict[int, None] = {}
        while len(chosen) < count:
            draws = (self.uniform(count) * population).astype(np.int64)
            chosen |= dict.fromkeys(draws.tolist())
        return np.fromiter(chosen, dtype=np.int64)[:count]
