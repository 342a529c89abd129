"""The record of one written unit, which vouches for its chunk."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray
from pydantic import TypeAdapter

RECORD_NAME = re.compile(r"\d{8,}")


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
        prefixes: (rows, checksum) of its first rows, as many as it was committed with before: who
            used those can tell whether they are the same. A unit that is completed keeps them.
        inputs: (array, checksum) of the rows of other arrays that it was made from, as of a PCA.
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
    prefixes: tuple[tuple[int, str], ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()

    def checksum_of(self, rows: int) -> str | None:
        """Return the checksum of its first rows, None where they were never committed as such."""
        return dict([*self.prefixes, (self.rows, self.checksum)]).get(rows)


COMMIT = TypeAdapter(Commit)


@dataclass(frozen=True)
class NewUnit:
    """What is going to be a committed unit.

    Attributes:
        unit: its index.
        block: its rows, from the unit's first row on; what is left of the unit becomes NaN.
        ids: digest of the rows' sample ids.
        failed: how many of the rows stand for inputs that could not be read.
        before: the unit's record until now, where it was forgotten; default: the one there.
        inputs: the rows of other arrays that it was made from; see `Commit`.
    """

    unit: int
    block: NDArray[Any]
    ids: str
    failed: int
    before: Commit | None = None
    inputs: tuple[tuple[str, str], ...] = ()


def earlier_rows(before: Commit | None, fingerprint: str, rows: int) -> list[int]:
    """Return the numbers of rows, fewer than now, that a unit was committed with before."""
    if before is None or before.fingerprint != fingerprint:
        return []
    every = {before.rows, *(count for count, _ in before.prefixes)}
    return sorted(count for count in every if 0 < count < rows)


def record_name(unit: int) -> str:
    """Return the name of a unit's record in the folder of its array's records."""
    return f"{unit:08d}.json"


def record_unit(name: str) -> int | None:
    """Return the unit whose record has a name, None for another file."""
    stem, dot, suffix = name.rpartition(".")
    return int(stem) if dot and suffix == "json" and RECORD_NAME.fullmatch(stem) else None


def encode_commit(commit: Commit) -> bytes:
    """Return a record as it is stored."""
    return json.dumps(asdict(commit), sort_keys=True).encode()


def parse_commit(data: bytes) -> Commit:
    """Parse a record, passing over fields of newer minor versions.

    Raises:
        ValueError: it is damaged, or lacks a field.
    """
    return COMMIT.validate_json(data, strict=True)
