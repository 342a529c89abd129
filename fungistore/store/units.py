"""Arrays written unit by unit: one unit is one chunk of rows, one record, one step of resume.

The order of a commit: the chunk's bytes reach the disk, then its record does. A record therefore
vouches for its chunk; a chunk without one is nothing. This module is the whole protocol (publish a
chunk, publish its record, list what is done), so another backend has one place to stand in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import BitRound
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from fungistore.store.durable import publish_bytes, sync

Codec = Literal["none", "zstd", "bitround"]
BITROUND_KEPT_BITS = 5  # of float16's 10 mantissa bits: a relative error of 0.7 % (storage facts)
FEATURES = "features.zarr"
COMMITS = "commits"


@dataclass(frozen=True)
class Commit:
    """The record of one written unit.

    Attributes:
        unit: index of the unit, which is the chunk's index along the rows.
        rows: rows that were written; the last unit may be partly filled.
        bytes: size of the stored chunk.
        checksum: digest of the rows as they read back, so it stays valid for a prefix of a chunk
            that has since been completed.
        fingerprint: of the setup that the rows were made with.
        ids: digest of the rows' sample ids.
        failed: rows whose input could not be read; they are NaN.
        nan_rows, inf_rows, zero_rows: rows with a NaN, with an infinity, with all values zero.
    """

    unit: int
    rows: int
    bytes: int
    checksum: str
    fingerprint: str
    ids: str
    failed: int
    nan_rows: int
    inf_rows: int
    zero_rows: int


class UnitArray:
    """A zarr array of a store, and the records of its committed units.

    Args:
        root: the store's directory.
        name: path of the array below `features.zarr`, such as "dinov2/gradients/kl".
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.array: zarr.Array[Any] = zarr.open_array(root / FEATURES / name, mode="r+")
        self._directory = root / FEATURES / name
        self._records = root / COMMITS / name

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        *,
        shape: tuple[int, ...],
        dtype: str,
        unit_rows: int,
        codec: Codec,
        fingerprint: str,
    ) -> UnitArray:
        """Create an array of `shape` (rows first); unwritten rows read as NaN."""
        group = zarr.open_group(root / FEATURES, mode="a")
        group.create_array(
            name,
            shape=shape,
            chunks=(unit_rows, *shape[1:]),
            dtype=dtype,
            fill_value=float("nan"),
            compressors=_compressors(codec),
            attributes={"fingerprint": fingerprint, "codec": codec},
            config={"write_empty_chunks": True},
        )
        return cls(root, name)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the setup that the array belongs to."""
        return str(self.array.attrs["fingerprint"])

    @property
    def rows(self) -> int:
        """Number of rows, written or not."""
        return int(self.array.shape[0])

    @property
    def unit_rows(self) -> int:
        """Rows of a full unit."""
        return int(self.array.chunks[0])

    @property
    def units(self) -> int:
        """Number of units that the rows make."""
        return -(-self.rows // self.unit_rows)

    def grow(self, rows: int) -> None:
        """Lengthen the array to `rows`; never shortens it."""
        if rows > self.rows:
            self.array.resize((rows, *self.array.shape[1:]))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop)."""
        return np.asarray(self.array[start:stop])

    def publish(self, unit: int, block: NDArray[Any], ids: str, failed: int) -> Commit:
        """Write the whole of a unit and commit it; `ids` is the digest of its rows' sample ids."""
        start = unit * self.unit_rows
        if self.array.attrs["codec"] == "bitround":
            block = round_bits(block)
        self.array[start : start + len(block)] = block
        chunk = self.chunk_path(unit)
        sync(chunk)
        sync(chunk.parent)
        stored = self.read(start, start + len(block))
        flat = stored.reshape(len(stored), -1)
        commit = Commit(
            unit=unit,
            rows=len(block),
            bytes=chunk.stat().st_size,
            checksum=checksum(stored),
            fingerprint=self.fingerprint,
            ids=ids,
            failed=failed,
            nan_rows=int(np.isnan(flat).any(axis=1).sum()),
            inf_rows=int(np.isinf(flat).any(axis=1).sum()),
            zero_rows=int((flat == 0).all(axis=1).sum()),
        )
        publish_bytes(self._record_path(unit), json.dumps(asdict(commit), sort_keys=True).encode())
        return commit

    def commits(self) -> dict[int, Commit]:
        """Return the records whose chunk is there with the recorded size, by unit."""
        if not self._records.is_dir():
            return {}
        units = sorted(int(path.stem) for path in self._records.glob("*.json"))
        found = {unit: self.commit(unit) for unit in units}
        return {unit: commit for unit, commit in found.items() if commit is not None}

    def commit(self, unit: int) -> Commit | None:
        """Return a unit's record if its chunk matches it, None otherwise.

        The sizes are compared; only where they differ, as after a kill between the two steps of a
        commit that completes a partly filled unit, are the rows read and hashed.
        """
        try:
            record: Mapping[str, Any] = json.loads(self._record_path(unit).read_bytes())
            commit = Commit(**record)
            size = self.chunk_path(unit).stat().st_size
        except (OSError, ValueError, TypeError):
            return None
        if commit.fingerprint != self.fingerprint or size == 0:
            return None
        return commit if size == commit.bytes or self.holds(commit) else None

    def holds(self, commit: Commit) -> bool:
        """Whether the committed rows still read back as they were written (reads them all)."""
        start = commit.unit * self.unit_rows
        try:
            return checksum(self.read(start, start + commit.rows)) == commit.checksum
        except (OSError, ValueError, RuntimeError):  # what codecs raise on damaged bytes
            return False

    def chunk_path(self, unit: int) -> Path:
        """Return the file that holds a unit."""
        index = (unit, *(0,) * (self.array.ndim - 1))
        return self._directory / self.array.metadata.encode_chunk_key(index)

    def _record_path(self, unit: int) -> Path:
        return self._records / f"{unit:08d}.json"


def checksum(rows: NDArray[Any]) -> str:
    """Return a digest of the values of some rows."""
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def round_bits(block: NDArray[Any]) -> NDArray[Any]:
    """Return values rounded to the mantissa bits that "bitround" keeps, so that they compress.

    Rounding here, and not in a zarr filter, leaves files that every zarr implementation reads.
    """
    rounded = BitRound(keepbits=BITROUND_KEPT_BITS).encode(block)
    return np.asarray(rounded).view(block.dtype).reshape(block.shape)


def _compressors(codec: Codec) -> list[Any]:
    if codec == "none":  # a chunk file is then a plain array and can be memory-mapped
        return [Crc32cCodec()]
    return [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()]
