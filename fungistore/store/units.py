"""Arrays written unit by unit: one unit is one chunk of rows, one record, one step of resume.

The order of a commit: the chunk's bytes reach the disk, then its record does. A record therefore
vouches for its chunk; a chunk without one is nothing. This module is the whole protocol (publish a
chunk, publish its record, list what is done), so another backend has one place to stand in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, cast

import numpy as np
import zarr
from numcodecs import BitRound
from numpy.typing import NDArray
from pydantic import TypeAdapter
from zarr.codecs import BloscCodec, Crc32cCodec

from fungistore.choices import Codec
from fungistore.errors import StoreError
from fungistore.store.durable import make_directory, publish_bytes, sync

BITROUND_KEPT_BITS = 5  # of float16's 10 mantissa bits: a relative error of 0.7 % (storage facts)
FEATURES = "features.zarr"
METADATA = "zarr.json"
RECORD_NAME = re.compile(r"\d{8,}")
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


COMMIT = TypeAdapter(Commit)


class UnitArray:
    """A zarr array of a store, and the records of its committed units.

    Args:
        root: the store's directory.
        name: path of the array below `features.zarr`, such as "dinov2/gradients/kl".
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._directory = root / FEATURES / name
        self._records = root / COMMITS / name
        self.array = self._open()

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
        parents = [root / FEATURES / parent for parent in reversed(PurePath(name).parents)]
        for parent in parents:  # one by one: an array must never be there before its groups
            make_directory(parent)
            zarr.open_group(parent, mode="a")
            _sync_metadata(parent)
        make_directory(root / FEATURES / name)
        zarr.create_array(
            root / FEATURES / name,
            shape=shape,
            chunks=(unit_rows, *shape[1:]),
            dtype=dtype,
            fill_value=float("nan"),
            compressors=_compressors(codec),
            attributes={"fingerprint": fingerprint, "codec": codec},
        )
        _sync_metadata(root / FEATURES / name)
        return cls(root, name)

    def _open(self) -> zarr.Array[Any]:
        mode: Literal["r", "r+"] = "r+" if os.access(self._directory, os.W_OK) else "r"
        try:
            array = zarr.open_array(self._directory, mode=mode, zarr_format=3)
            if not {"fingerprint", "codec"} <= array.attrs.keys():
                raise ValueError("an array of another program")
        except Exception as error:  # zarr raises many types on metadata that it cannot use
            raise StoreError(
                "an array's metadata are damaged",
                where=self._directory / METADATA,
                found=error,
                hint=f"remove {self._directory} and run fungi extract again",
            ) from error
        # a unit of unreadable images is all NaN, the fill value, and must be written all the same
        return array.with_config({"write_empty_chunks": True})

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
        return int(self.array.chunks[0])

    @property
    def units(self) -> int:
        """Number of units that the rows make."""
        return -(-self.rows // self.unit_rows)

    def grow(self, rows: int) -> None:
        """Lengthen the array to `rows`, durably; never shortens it."""
        if rows > self.rows:
            path = self._directory / METADATA
            document = json.loads(path.read_bytes())
            document["shape"][0] = rows
            publish_bytes(path, json.dumps(document, indent=2).encode())
            self.array = self._open()

    def rows_of(self, unit: int) -> int:
        """Return how many rows a unit has: fewer than `unit_rows` at the array's end."""
        return min(self.unit_rows, self.rows - unit * self.unit_rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop)."""
        return np.asarray(self.array[start:stop])

    def publish(self, unit: int, block: NDArray[Any], ids: str, failed: int) -> Commit:
        """Write the first rows of a unit, or all of them, and commit them.

        Args:
            unit: index of the unit.
            block: its rows, from the unit's first row on; what is left of the unit becomes NaN.
            ids: digest of the rows' sample ids.
            failed: how many of the rows stand for inputs that could not be read.

        Raises:
            ValueError: the block is not of the array's row shape, empty, or longer than the unit.
        """
        expected = self.array.shape[1:]
        if unit < 0 or block.shape[1:] != expected or not 0 < len(block) <= self.rows_of(unit):
            raise ValueError(
                f"{self.name}: unit {unit} takes 1 to {self.rows_of(unit)} rows of {expected}, "
                f"not {block.shape}"
            )
        if self.codec == "bitround":
            block = round_bits(block)
        start, rows = unit * self.unit_rows, len(block)
        whole = np.full((self.rows_of(unit), *expected), np.nan, self.array.dtype)
        whole[:rows] = block  # a whole chunk, so that zarr never merges with what is there
        self.array[start : start + len(whole)] = whole
        chunk = self.chunk_path(unit)
        sync(chunk)
        for folder in chunk.relative_to(self._directory).parents:
            sync(self._directory / folder)
        stored = self.read(start, start + rows)
        flat = stored.reshape(len(stored), -1)
        commit = Commit(
            unit=unit,
            rows=rows,
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

    def forget(self, unit: int) -> None:
        """Remove a unit's record, durably: it counts as not written, and is written anew."""
        path = self._record_path(unit)
        if path.exists():
            path.unlink()
            sync(path.parent)

    def commits(self) -> dict[int, Commit]:
        """Return the records whose chunk is there with the recorded size, by unit."""
        if not self._records.is_dir():
            return {}
        stems = sorted(path.stem for path in self._records.glob("*.json"))
        units = [int(stem) for stem in stems if RECORD_NAME.fullmatch(stem)]
        found = {unit: self.commit(unit) for unit in units}
        return {unit: commit for unit, commit in found.items() if commit is not None}

    def commit(self, unit: int) -> Commit | None:
        """Return a unit's record if its chunk matches it, None otherwise.

        The sizes are compared; only where they differ, as after a kill between the two steps of a
        commit that completes a partly filled unit, are the rows read and hashed.
        """
        try:
            commit = parse_commit(self._record_path(unit).read_bytes())
            size = self.chunk_path(unit).stat().st_size
        except (OSError, ValueError):
            return None
        is_sound = commit.unit == unit and 0 < commit.rows <= self.rows_of(unit)
        if not is_sound or commit.fingerprint != self.fingerprint or size == 0:
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


def parse_commit(data: bytes) -> Commit:
    """Parse a record, passing over fields of newer minor versions.

    Raises:
        ValueError: it is damaged, or lacks a field.
    """
    return COMMIT.validate_json(data, strict=True)


def checksum(rows: NDArray[Any]) -> str:
    """Return a digest of the values of some rows."""
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def round_bits(block: NDArray[Any]) -> NDArray[Any]:
    """Return values rounded to the mantissa bits that "bitround" keeps, so that they compress.

    Rounding here, and not in a zarr filter, leaves files that every zarr implementation reads.
    """
    encoded = BitRound(keepbits=BITROUND_KEPT_BITS).encode(block)
    rounded = np.asarray(encoded).view(block.dtype).reshape(block.shape)
    return np.where(np.isnan(block), block, rounded)  # some NaN would round up into numbers


def _sync_metadata(directory: Path) -> None:
    sync(directory / METADATA)
    sync(directory)


def _compressors(codec: Codec) -> list[Any]:
    if codec == "none":  # a chunk file is then a plain array and can be memory-mapped
        return [Crc32cCodec()]
    return [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()]
