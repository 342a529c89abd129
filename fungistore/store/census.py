"""Tells new samples from known ones, whatever their number: sixteen bytes of memory each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.location import is_inline
from fungistore.sources.sample import Cell, Sample
from fungistore.store.columns import hash_cells

SAMPLES_AT_ONCE = 16_384
MICROSECONDS = 1_000_000
CALENDAR = (-62_135_596_800, 253_402_300_799)  # the years 1 to 9999, in seconds from the epoch
DUPLICATES_SHOWN = 3


@dataclass(frozen=True)
class SourceChanges:
    """A source against the table.

    Attributes:
        added: samples that are new.
        known: samples that the table has.
        changed: of those, samples of another size, time or inline content.
        removed: samples that the table has from this source, and that the source lacks now.
        first_removed: the ids of some of them.
        changed_samples: by row, what the source says of the changed ones; only where it was asked.
        changed_cells: by row, the source's cells where the table has others.
    """

    added: int
    known: int
    changed: int
    removed: int = 0
    first_removed: tuple[str, ...] = ()
    changed_samples: Mapping[int, Sample] = field(default_factory=dict)
    changed_cells: Mapping[int, tuple[Cell, ...]] = field(default_factory=dict)


class Census:
    """Tells new samples from known ones by their ids' 64-bit hashes.

    Args:
        keys: hashes of the known ids.
        stamps: hashes of the known ids with their sizes and times, in the same order.
        keep_changed: collect the samples of another size or time.
        cells: hashes of the known samples' cells, in the same order; None where the source has
            no columns.
    """

    def __init__(
        self,
        keys: NDArray[np.uint64],
        stamps: NDArray[np.uint64],
        *,
        keep_changed: bool,
        cells: NDArray[np.uint64] | None = None,
    ) -> None:
        self._order = order = np.argsort(keys)
        self._keep_changed = keep_changed
        self._changed_samples: dict[int, Sample] = {}
        self._keys, self._stamps = keys[order], stamps[order]
        self._cells = None if cells is None else cells[order]
        self._changed_cells: dict[int, tuple[Cell, ...]] = {}
        self._added: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
        self._seen = np.zeros(len(keys), np.uint32)
        self._repeated: set[str] = set()
        self._changed = 0

    def new_samples(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the samples that are not known, counting those that are."""
        stream = iter(samples)
        while batch := list(islice(stream, SAMPLES_AT_ONCE)):
            keys, stamps = hash_samples(
                (s.id, s.uri, s.bytes, microseconds(s.mtime)) for s in batch
            )
            places = np.searchsorted(self._keys, keys)  # not `isin`, which sorts all of them again
            known = np.zeros(len(keys), bool)
            is_inside = places < len(self._keys)
            known[is_inside] = self._keys[places[is_inside]] == keys[is_inside]
            at = places[known]
            np.add.at(self._seen, at, 1)
            self._repeated |= {batch[i].id for i in np.flatnonzero(known)[self._seen[at] > 1]}
            changed = self._stamps[at] != stamps[known]
            self._changed += int(changed.sum())
            if self._keep_changed:
                rows = self._order[at[changed]].tolist()
                numbers = np.flatnonzero(known)[changed]
                self._changed_samples |= {
                    row: batch[number] for row, number in zip(rows, numbers, strict=True)
                }
            if self._cells is not None:
                numbers = np.flatnonzero(known)
                found = hash_cells(batch[number].cells for number in numbers)
                for place in np.flatnonzero(self._cells[at] != found).tolist():
                    row = int(self._order[at[place]])
                    self._changed_cells[row] = batch[numbers[place]].cells
            self._added.append(keys[~known])
            yield from (sample for sample, old in zip(batch, known, strict=True) if not old)

    def changes(self) -> SourceChanges:
        """Return the counts so far."""
        return SourceChanges(
            sum(map(len, self._added)),
            int(self._seen.sum()),
            self._changed,
            changed_samples=self._changed_samples,
            changed_cells=self._changed_cells,
        )

    def unseen_rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending, of the known samples that did not come by."""
        return np.sort(self._order[self._seen == 0])

    def refuse_duplicates(self, part: Path | None) -> None:
        """Raise UsageError if two samples have the same id; new ones are written to `part`."""
        values, counts = np.unique(np.concatenate(self._added), return_counts=True)
        suspects = set(values[counts > 1].tolist())
        duplicates = set(self._repeated)
        if part is not None and suspects:
            seen: Counter[str] = Counter()
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(SAMPLES_AT_ONCE, columns=["id"]):
                    ids = batch["id"].to_pylist()
                    seen.update(i for i in ids if _hash(i, "", None, None)[0] in suspects)
            # hashes alone may meet by chance: once in 4,000 tables of 100 million samples
            duplicates |= {sample_id for sample_id, count in seen.items() if count > 1}
        if duplicates:
            raise UsageError(
                f"{len(duplicates)} sample ids occur more than once",
                expected="every sample has its own id",
                found=", ".join(map(repr, sorted(duplicates)[:DUPLICATES_SHOWN])),
                hint="give the manifest an `id` column with unique values, or remove repeated rows",
            )


def hash_samples(
    samples: Iterable[tuple[str, str, int | None, int | None]],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return 64-bit hashes of ids: a key of each alone, and a stamp with its bytes and time.

    The stamp of an inline item has its content, the uri, too: it has no time that would tell.
    """
    both = [_hash(*sample) for sample in samples]
    return (
        np.array([key for key, _ in both], np.uint64),
        np.array([stamp for _, stamp in both], np.uint64),
    )


def _hash(sample_id: str, uri: str, size: int | None, time: int | None) -> tuple[int, int]:
    state = hashlib.blake2b(sample_id.encode(), digest_size=8)
    key = int.from_bytes(state.digest(), "little")
    state.update(f"\0{size}\0{time}{uri if is_inline(uri) else ''}".encode())
    return key, int.from_bytes(state.digest(), "little")


def microseconds(seconds: float | None) -> int | None:
    """Return a time for the table, None for one beyond the calendar (broken disks have such)."""
    if seconds is None or not CALENDAR[0] < seconds < CALENDAR[1]:
        return None
    return round(seconds * MICROSECONDS)
