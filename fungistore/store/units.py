"""Arrays written unit by unit: one unit is one file of rows, one record, one step of resume.

The file is a chunk, or a shard of several. The order of a commit: its bytes reach the disk, then
its record does. A record therefore vouches for its chunk; a chunk without one is nothing. This
module is the whole protocol (publish a chunk, publish its record, list what is done), and a backend
is all that it writes to.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fungistore.choices import Codec
from fungistore.fingerprint import Config
from fungistore.names import CHUNKS
from fungistore.quantities import counted
from fungistore.store.arrays import open_array
from fungistore.store.backend import Backend, Bytes
from fungistore.store.chunks import (
    METADATA,
    blank_array,
    encode,
    examine,
    round_bits,
)
from fungistore.store.commit import (
    Commit,
    NewUnit,
    earlier_rows,
    encode_commit,
    parse_commit,
    record_name,
    record_unit,
)
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.feature import Feature
from fungistore.store.folder import Folder
from fungistore.store.groups import ready_groups
from fungistore.store.plain_chunks import Encoded, PlainChunks, plain_chunks

FEATURES = "features.zarr"
COMMITS = "commits"
LARGEST_UNIT = 1 << 16  # rows: what a new array is given at most
STRETCH_BYTES = 1 << 25  # of a shard's chunks: read at once by who needs no more together


class UnitArray:
    """A zarr array of a store, and the records of its committed units.

    Args:
        backend: where the store is.
        name: path of the array below `features.zarr`, such as "dinov2/gradients/kl".
        metadata: zarr's, if they have just been read.

    Attributes:
        folder: where its chunks and metadata are.
        records: where the records are.

    Raises:
        StoreError: its metadata are missing or damaged.
    """

    def __init__(self, backend: Backend, name: str, metadata: Config | None = None) -> None:
        self.name = name
        self.folder = Folder(backend).at(FEATURES, name)
        self.records = Folder(backend).at(COMMITS, name)
        self.array = open_array(self.folder, metadata)

    @classmethod
    def create(
        cls,
        backend: Backend,
        name: str,
        *,
        shape: tuple[int, ...],
        dtype: str,
        unit_rows: int,
        codec: Codec,
        fingerprint: str,
        shard_units: int = 1,
    ) -> UnitArray:
        """Create an array of `shape` (rows first); unwritten rows read as NaN."""
        features = Folder(backend).at(FEATURES)
        ready_groups(features, name)  # never an array before its groups
        attributes = {"fingerprint": fingerprint, "codec": codec}
        _, metadata = blank_array(shape, dtype, unit_rows, shard_units, codec, attributes)
        features.at(name).publish(METADATA, metadata)
        return cls(backend, name)

    @property
    def feature_set(self) -> str:
        """Name of the feature set that it is in."""
        return self.name.partition("/")[0]

    @property
    def feature(self) -> Feature:
        """What it holds."""
        shape = tuple(int(size) for size in self.array.shape[1:])
        return Feature(self.name.partition("/")[2], shape, str(self.array.dtype))

    @cached_property
    def plain(self) -> PlainChunks | None:
        """The layout of its files where they are plain arrays, None where they are encoded."""
        return plain_chunks(self.array)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the setup that the array belongs to."""
        return str(self.array.attrs["fingerprint"])

    @property
    def codec(self) -> Codec:
        """How its chunks are stored."""
        return cast(Codec, self.array.attrs["codec"])

    @property
    def rows(self) -> int:
        """Number of rows, written or not."""
        return int(self.array.shape[0])

    @property
    def unit_rows(self) -> int:
        """Rows of a full unit."""
        return int((self.array.shards or self.array.chunks)[0])

    @property
    def shard_units(self) -> int:
        """Chunks of a unit's file; more than one are a shard."""
        return self.unit_rows // self.chunk_rows

    @property
    def chunk_rows(self) -> int:
        """Rows of a full chunk: what is decoded at once."""
        return int(self.array.chunks[0])

    @property
    def stretch_rows(self) -> int:
        """Rows of as many whole chunks of a unit as `pieces` reads at once."""
        chunk = self.chunk_rows * self.feature.row_bytes
        return min(self.unit_rows, max(1, STRETCH_BYTES // max(1, chunk)) * self.chunk_rows)

    @property
    def units(self) -> int:
        """Number of units that the rows make."""
        return -(-self.rows // self.unit_rows)

    def grow(self, rows: int) -> None:
        """Lengthen the array to `rows`, durably; never shortens it."""
        if rows > self.rows:
            document = json.loads(self.folder.read(METADATA))
            document["shape"][0] = rows
            ready_groups(Folder(self.folder.backend).at(FEATURES), self.name)
            self.folder.publish(METADATA, json.dumps(document, indent=2).encode())
            self.array = open_array(self.folder)

    def rows_of(self, unit: int) -> int:
        """Return how many rows a unit has: fewer than `unit_rows` at the array's end."""
        return min(self.unit_rows, self.rows - unit * self.unit_rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop)."""
        if self.shard_units == 1 or self.plain is None:
            return np.asarray(self.array[start:stop])
        return self.plain.read(self._encoded, start, stop)  # several times as fast as zarr

    def _encoded(self, unit: int, chunks: range) -> Iterator[Encoded]:
        """Yield neighbouring chunks of a shard of plain arrays; from a URL in one request."""
        assert self.plain is not None
        if self.folder.directory() is not None:
            return self.plain.in_file(self.chunk_path(unit), chunks)
        size = self.plain.chunk_bytes
        key = self.folder.key_of(self.chunk_key(unit))
        parts = self.folder.backend.ranges(key, [chunks.start * size], [len(chunks) * size])
        return self.plain.in_part(parts[0], chunks)

    def pieces(
        self, unit: int, rows: int, cuts: Sequence[int] = ()
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, rows) of a unit's first rows: of a shard, which is large, some chunks.

        Args:
            unit: its index.
            rows: of it.
            cuts: further rows of the unit at which a piece begins.
        """
        first = unit * self.unit_rows
        for start, stop in pairwise(sorted({*range(0, rows, self.stretch_rows), *cuts, rows})):
            yield first + start, self.read(first + start, first + stop)

    def publish(
        self,
        unit: int,
        block: NDArray[Any],
        ids: str,
        failed: int,
        before: Commit | None = None,
    ) -> Commit:
        """Write the first rows of a unit, or all of them, and commit them; see `NewUnit`.

        Raises:
            ValueError: the block is not of the array's row shape, empty, or longer than the unit.
        """
        (commit,) = self.publish_all([NewUnit(unit, block, ids, failed, before)])
        return commit

    def publish_all(self, units: Sequence[NewUnit]) -> list[Commit]:
        """Publish several units together, in little more time than a disk needs for one.

        Their chunks reach the disk, then their records do, so the order of a commit is kept.

        Raises:
            ValueError: as `publish`; nothing was written.
        """
        before = [new.before or self._record(new.unit) for new in units]
        chunks = {self.chunk_key(new.unit): self._chunk(new) for new in units}
        # chunks without even a folder of records have lost these, and no kill was the cause
        self.folder.backend.make_folder(self.records.key)
        self.folder.publish_all(chunks)
        commits = [
            replace(
                self._read_back(new.unit, len(new.block), new.ids, new.failed, earlier),
                inputs=new.inputs,
            )
            for new, earlier in zip(units, before, strict=True)
        ]
        self._record_all(commits)
        return commits

    def vouch(self, unit: int, rows: int, ids: str, failed: int) -> Commit:
        """Commit the first rows of a unit's chunk, which is on the disk, as they read back."""
        commit = self._read_back(unit, rows, ids, failed, None)
        self._record_all([commit])
        return commit

    def _record_all(self, commits: Sequence[Commit]) -> None:
        self.records.publish_all(
            {record_name(commit.unit): [encode_commit(commit)] for commit in commits}
        )

    def _chunk(self, new: NewUnit) -> Sequence[Bytes]:
        """Return a new unit's chunk in pieces."""
        unit, block = new.unit, new.block
        expected = self.array.shape[1:]
        if unit < 0 or block.shape[1:] != expected or not 0 < len(block) <= self.rows_of(unit):
            raise ValueError(
                f"{self.name}: unit {unit} takes 1 to "
                f"{counted(self.rows_of(unit), 'row')} of {expected}, "
                f"not {block.shape}"
            )
        if self.codec == "bitround":
            block = round_bits(block)
        block = block.astype(self.array.dtype, copy=False)
        return encode(block, self.unit_rows, self.codec, self.shard_units)

    def checksum_of(self, commit: Commit, rows: int) -> str | None:
        """Return the checksum of a unit's first rows, which are read where its record lacks it.

        None where there are fewer, or where they are damaged and cannot be told.
        """
        known = commit.checksum_of(rows)
        if known is not None or rows > commit.rows:
            return known
        return self._checksum(commit.unit, rows)

    def _checksum(self, unit: int, rows: int) -> str | None:
        """Return the checksum of a unit's first rows, None where they are damaged."""
        try:
            return examine((piece for _, piece in self.pieces(unit, rows)), [rows])[0][0]
        except (OSError, ValueError, RuntimeError) as error:  # of codecs, on damaged bytes
            raise_unreadable(error)
            return None

    def _read_back(
        self, unit: int, rows: int, ids: str, failed: int, before: Commit | None
    ) -> Commit:
        """Return the record of a unit's first rows as they are on the disk."""
        known = earlier_rows(before, self.fingerprint, rows)
        pieces = self.pieces(unit, rows, known)
        (*found, whole), counts = examine((piece for _, piece in pieces), [*known, rows])
        return Commit(
            unit=unit,
            rows=rows,
            bytes=self.chunk_size(unit),
            checksum=whole,
            fingerprint=self.fingerprint,
            ids=ids,
            failed=failed,
            nan_rows=counts.nan,
            inf_rows=counts.inf,
            zero_rows=counts.zero,
            prefixes=tuple(zip(known, found, strict=True)),
        )

    def forget(self, unit: int) -> None:
        """Remove a unit's record, durably: it counts as not written, and is written anew."""
        self.records.remove(record_name(unit))

    def commits(self, some: Container[int] | None = None) -> dict[int, Commit]:
        """Return the records whose chunk is there with the recorded size, by unit.

        Args:
            some: units to look at; default: all.

        Raises:
            OSError: a record or a chunk may be there, and cannot be read.
        """
        if some is not None and self.folder.directory() is not None:
            units = [record_unit(name) for name in self.records.list().files]
            found = {unit: self.commit(unit) for unit in units if unit is not None and unit in some}
        else:  # elsewhere all of them are fewer requests than some
            with self.folder.backend.once():
                self.soon()
                stored = self.records.read_all()
                names = {unit: name for name in stored if (unit := record_unit(name)) is not None}
                names = {unit: name for unit, name in names.items() if some is None or unit in some}
                keys = {unit: self.chunk_key(unit) for unit in names}
                sizes = self.folder.sizes(list(keys.values()))
            found = {u: self._judged(u, stored[n], sizes.get(keys[u])) for u, n in names.items()}
        return {unit: commit for unit, commit in found.items() if commit is not None}

    def soon(self) -> None:
        """Begin what `commits` takes, within the backend's `once`."""
        self.records.soon("read_all")
        self.folder.soon("sizes", CHUNKS)

    def commit(self, unit: int) -> Commit | None:
        """Return a unit's record if its chunk matches it, None otherwise.

        The sizes are compared; only where they differ, as after a kill between the two steps of a
        commit that completes a partly filled unit, are the rows read and hashed.

        Raises:
            OSError: the record or the chunk may be there, and cannot be read: a unit that counted
                as not written for that would be written anew.
        """
        try:
            data, size = self.records.read(record_name(unit)), self.chunk_size(unit)
        except OSError as error:
            raise_unreadable(error)
            return None
        return self._judged(unit, data, size)

    def _judged(self, unit: int, record: bytes, size: int | None) -> Commit | None:
        """Return the record of a unit whose chunk has some size, if the two go together."""
        try:
            commit = parse_commit(record)
        except ValueError as error:
            raise_unreadable(error)
            return None
        is_sound = commit.unit == unit and 0 < commit.rows <= self.rows_of(unit)
        if not is_sound or commit.fingerprint != self.fingerprint or not size:
            return None
        return commit if size == commit.bytes or self.holds(commit) else None

    def _record(self, unit: int) -> Commit | None:
        """Return what a unit's record says, whatever its chunk; None without a sound one."""
        try:
            return parse_commit(self.records.read(record_name(unit)))
        except (OSError, ValueError) as error:
            raise_unreadable(error)
            return None

    def holds(self, commit: Commit) -> bool:
        """Whether the committed rows still read back as they were written (reads them all).

        Raises:
            OSError: the chunk cannot be read, whatever it holds.
        """
        return self._checksum(commit.unit, commit.rows) == commit.checksum

    def chunk_key(self, unit: int) -> str:
        """Return the name, in the array's folder, of the object that holds a unit."""
        return self.array.metadata.encode_chunk_key((unit, *(0,) * (self.array.ndim - 1)))

    def chunk_path(self, unit: int) -> Path:
        """Return where a unit's chunk can be mapped on this machine."""
        return self.folder.local_path(self.chunk_key(unit))

    def chunk_size(self, unit: int) -> int:
        """Return the bytes of a unit's chunk.

        Raises:
            OSError: it is not there.
        """
        return self.folder.size(self.chunk_key(unit))

    def chunk_sizes(self, units: Collection[int]) -> dict[int, int]:
        """Return the bytes of the chunks of some units, of those that are there."""
        keys = {self.chunk_key(unit): unit for unit in units}
        return {keys[key]: size for key, size in self.folder.sizes(list(keys)).items()}
