"""Latents of a bank that is being made, kept in blocks on the disk: a kill costs the last block.

They lie where a setup would, in `setups/`, under the fingerprint of what decides them and nothing
else: what a run measures before its first unit, such as the rows of a unit, may come out otherwise
when it is begun again. They go when the bank is frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fungistore.fingerprint import digest_array, digest_ids
from fungistore.store.folder import Folder
from fungistore.store.setups import LATENTS

BLOCK_SECONDS = 60.0  # a kill loses about this much work at most, as it does of units


@dataclass(frozen=True)
class Block:
    """Some samples in the order of the bank, and their latents.

    Attributes:
        tried: how many samples they were.
        latents: of those that could be read, [k, v, d].
    """

    tried: int
    latents: NDArray[np.float32]


@dataclass(frozen=True)
class BankBlocks:
    """The blocks of one bank.

    Attributes:
        folder: of the blocks, which nothing else is in; it may not be there yet.
    """

    folder: Folder

    def read(self, ids: Callable[[int, int], Sequence[str]]) -> Iterator[Block]:
        """Yield the blocks from the first sample on, as far as they follow each other.

        Args:
            ids: returns those of the samples from one place in the order to another. A block of
                other samples, which a store that has grown meanwhile may have, is not used.
        """
        start = 0
        while block := self._block(start, ids):
            yield block
            start += block.tried

    def write(self, start: int, ids: Sequence[str], latents: NDArray[np.float32]) -> None:
        """Keep the latents [k, v, d] of the samples `ids`, whose first is the bank's `start`-th."""
        digests = digest_ids(ids), digest_array(latents)
        told = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8)
        arrays = {"latents": latents, "tried": np.array([len(ids)]), "digests": told}
        self.folder.publish(_file(start), save(arrays))

    def remove(self) -> None:
        """Delete all of them, if there are some."""
        if self.folder.list().files:
            self.folder.remove()

    def _block(self, start: int, ids: Callable[[int, int], Sequence[str]]) -> Block | None:
        if not self.folder.has(_file(start)):
            return None
        try:
            arrays = load(self.folder.read(_file(start)))
            latents, tried = arrays["latents"], int(arrays["tried"][0])
            digests = digest_ids(ids(start, start + tried)) + digest_array(latents)
            is_whole = arrays["digests"].tobytes().hex() == digests
        except (SafetensorError, KeyError):  # damaged: it is made again
            return None
        return Block(tried, latents) if is_whole and tried else None


class OpenBlock:
    """The block that grows until it is old enough to be written.

    Args:
        blocks: where to; None: nowhere.
        start: the place of its first sample in the order of the bank.
    """

    def __init__(self, blocks: BankBlocks | None, start: int) -> None:
        self._blocks = blocks
        self._begin(start)

    def add(self, ids: Sequence[str], latents: NDArray[np.float32]) -> None:
        """Take samples that were tried, and the latents of those that could be read."""
        self._ids += ids
        self._latents.append(latents)
        if time.monotonic() - self._since >= BLOCK_SECONDS:
            self.write()

    def write(self) -> None:
        """Write it, and begin the next one."""
        if self._blocks is not None and self._ids:
            self._blocks.write(self._start, self._ids, np.concatenate(self._latents))
        self._begin(self._start + len(self._ids))

    def _begin(self, start: int) -> None:
        self._start = start
        self._ids: list[str] = []
        self._latents: list[NDArray[np.float32]] = []
        self._since = time.monotonic()


def _file(start: int) -> str:
    return f"{LATENTS}{start:08d}.safetensors"
