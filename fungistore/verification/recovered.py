"""What chunks and their records tell of an array whose metadata are lost or wrong."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from numcodecs import Blosc

from fungistore.choices import Codec
from fungistore.names import CHUNKS
from fungistore.store.chunks import chunks_of
from fungistore.store.commit import parse_commit
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.folder import Folder

MOST_DIMENSIONS = 4  # of an array: rows of a grid of tokens


@dataclass(frozen=True)
class Rows:
    """How the rows of an array are stored.

    Attributes:
        dimensions: of the array.
        bytes: of one row.
    """

    dimensions: int
    bytes: int


def proven_rows(
    folder: Folder, records: dict[int, str], unit_rows: int, shard_units: int, codec: Codec
) -> Rows | None:
    """Return how an array's rows are stored, from a chunk that has its record's checksum.

    Args:
        folder: of the array.
        records: keys of its records by unit.
        unit_rows: rows of a full unit.
        shard_units: chunks of a unit's file.
        codec: how its chunks are stored.

    Raises:
        OSError: a record or chunk cannot be read, so it may prove something.
    """
    for unit, key in records.items():
        try:
            commit = parse_commit(folder.backend.read(key))
            name = f"{CHUNKS}/{unit}"
            zeros = next(n for n in range(MOST_DIMENSIONS) if folder.has(name + n * "/0"))
            file = folder.read(name + zeros * "/0")
            decode = bytes if codec == "none" else Blosc().decode
            values = b"".join(map(decode, chunks_of(file, shard_units)))
        except Exception as error:  # each codec has its own way to refuse damaged bytes
            raise_unreadable(error)
            continue
        size, rest = divmod(len(values), unit_rows)
        committed = memoryview(values)[: commit.rows * size]
        digest = hashlib.blake2b(committed, digest_size=16).hexdigest()
        if size and not rest and 0 < commit.rows <= unit_rows and digest == commit.checksum:
            return Rows(zeros + 1, size)
    return None
