"""Digests of the bytes that rows were made from, by which items are known again wherever they are.

They stand beside a feature set's units, one file each, published before any record of the unit: so
what is committed is never without them. Stores of versions before 2.3 have none.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fungistore.store.backend import Backend
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.folder import Folder

Digests = NDArray[np.uint64]

CONTENTS = "contents"
# what stands for a digest; real ones are larger
UNKNOWN = 0  # nobody has noted it
FAILED = 1  # the item could not be read, so nothing was made of it
DIGEST_BYTES, CHECKSUM_BYTES = 8, 4
_STORED = np.dtype("<u8")


class ItemDigests:
    """The digests of a feature set's rows.

    Args:
        backend: where the store is.
        feature_set: its name.
    """

    def __init__(self, backend: Backend, feature_set: str) -> None:
        self.folder = Folder(backend).at(CONTENTS, feature_set)

    def read(self, unit: int, rows: int) -> Digests:
        """Return those of a unit's first rows, UNKNOWN where there are none."""
        found = np.full(rows, UNKNOWN, np.uint64)
        try:
            stored = parse_digests(self.folder.read(file_name(unit)))
        except (OSError, ValueError) as error:
            raise_unreadable(error)
            return found
        stored = stored[:rows]
        found[: len(stored)] = stored
        return found

    def sizes(self) -> dict[int, int]:
        """Return the bytes of each unit's file."""
        units = {file_unit(name): self.folder.size(name) for name in self.folder.list().files}
        return {unit: size for unit, size in units.items() if unit is not None}

    def add(self, unit: int, first: int, digests: Digests, made: int) -> Sequence[int]:
        """Note the digests of a unit's rows from `first` on.

        Rows below `made` have features already, and keep what these were made from.

        Returns:
            Places in the unit of such rows whose item is another one now.
        """
        whole = self.read(unit, first + len(digests))
        before = whole[first:].copy()
        is_made = np.arange(first, len(whole)) < made
        is_noted = is_made & (before > FAILED)
        whole[first:] = np.where(is_noted, before, digests)
        self._publish(unit, whole)
        is_other = is_noted & (digests > FAILED) & (digests != before)
        places: list[int] = (first + np.flatnonzero(is_other)).tolist()
        return places

    def replace(self, unit: int, places: Sequence[int], digests: Digests, rows: int) -> None:
        """Note the digests of rows that are made anew, by their place in a unit of some rows."""
        whole = self.read(unit, rows)
        whole[list(places)] = digests
        self._publish(unit, whole)

    def _publish(self, unit: int, digests: Digests) -> None:
        self.folder.publish(file_name(unit), encode_digests(digests))

    def remove(self) -> None:
        """Delete all of them."""
        self.folder.remove()


def file_name(unit: int) -> str:
    """Return the name of a unit's file."""
    return f"{unit:08d}.bin"


def file_unit(name: str) -> int | None:
    """Return the unit whose file has a name, None for another file."""
    stem, _, suffix = name.partition(".")
    return int(stem) if suffix == "bin" and stem.isdecimal() and len(stem) >= 8 else None


def file_bytes(rows: int) -> int:
    """Return the size of a unit's file."""
    return rows * DIGEST_BYTES + CHECKSUM_BYTES


def encode_digests(digests: Digests) -> bytes:
    """Return a file's bytes: eight of each row, little-endian, then the CRC-32 of these."""
    data = digests.astype(_STORED).tobytes()
    return data + zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def parse_digests(stored: bytes) -> Digests:
    """Return what a file has.

    Raises:
        ValueError: it is damaged.
    """
    data, checksum = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
    if not data or len(data) % DIGEST_BYTES or zlib.crc32(data).to_bytes(4, "little") != checksum:
        raise ValueError("its bytes differ from its checksum")
    return np.frombuffer(data, _STORED).astype(np.uint64)
