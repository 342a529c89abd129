"""Tells new samples from known ones, whatever their number: some twenty bytes of memory each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.store.hashing import Hashes, hash_column
from fungistore.store.plain import Terms
from fungistore.store.spool import Spool

DUPLICATES_SHOWN = 3


class Census:
    """Tells new samples from known ones by their ids' 64-bit hashes.

    Args:
        known: plain batches of the table, in its order.
        terms: what is compared.
        differing: gets the known samples of which the source says something else.

    Attributes:
        said: of "label" and "split", what some sample had.
    """

    def __init__(self, known: Iterable[pa.RecordBatch], terms: Terms, differing: Spool) -> None:
        keys, digests = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for batch in known:
            keys.append(hash_column(batch["id"]))
            digests.append(terms.digests(batch))
        of_rows = np.concatenate(keys)
        small = len(of_rows) < np.iinfo(np.int32).max
        self._order = np.argsort(of_rows).astype(np.int32 if small else np.int64)
        self._keys = of_rows[self._order]
        self._digests = np.concatenate(digests)
        self._terms = terms
        self._added: list[Hashes] = [np.zeros(0, np.uint64)]
        self._is_seen = np.zeros(len(self._keys), bool)  # by row
        self._repeated: set[str] = set()
        self._differing = differing
        self.said: set[str] = set()

    def new_samples(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the samples of a source that are not known as plain batches, noting the others."""
        for batch in batches:
            plain = self._terms.listed(batch)
            self.said |= {n for n in ("label", "split") if plain[n].null_count < len(plain)}
            keys = hash_column(plain["id"])
            order = np.argsort(keys)  # neighbours are looked for beside each other: in the cache
            places = np.searchsorted(self._keys, keys[order])
            is_known = np.zeros(len(keys), bool)
            inside = places < len(self._keys)
            is_known[order[inside]] = self._keys[places[inside]] == keys[order[inside]]
            rows = np.zeros(len(keys), np.int64)
            rows[order[inside]] = self._order[places[inside]]
            self._note(plain, rows, is_known)
            self._added.append(keys[~is_known])
            yield plain.filter(pa.array(~is_known))

    def _note(
        self, plain: pa.RecordBatch, rows: NDArray[np.int64], is_known: NDArray[np.bool_]
    ) -> None:
        at = np.flatnonzero(is_known)
        known = rows[at]
        again = self._is_seen[known]
        _, first = np.unique(known, return_index=True)
        if again.any() or len(first) < len(known):
            again[np.setdiff1d(np.arange(len(known)), first)] = True
            self._repeated |= set(plain["id"].take(pa.array(at[again])).to_pylist())
        self._is_seen[known] = True
        differs = self._terms.digests(plain)[at] != self._digests[known]
        numbers = pa.array(known[differs], pa.int64())
        others = plain.take(pa.array(at[differs]))
        self._differing.append(
            pa.RecordBatch.from_arrays([numbers, *others.columns], schema=self._differing.schema)
        )

    @property
    def added(self) -> int:
        """How many samples were new."""
        return sum(map(len, self._added))

    @property
    def known(self) -> int:
        """How many were not."""
        return int(self._is_seen.sum())

    def seen_rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending, of the known samples that came by."""
        return np.flatnonzero(self._is_seen)

    def unseen_rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending, of those that did not."""
        return np.flatnonzero(~self._is_seen)

    def refuse_duplicates(self, part: Path | None) -> None:
        """Raise UsageError if two samples have the same id; new ones are written to `part`."""
        values, counts = np.unique(np.concatenate(self._added), return_counts=True)
        suspects = values[counts > 1]
        duplicates = set(self._repeated)
        if part is not None and len(suspects):
            seen: Counter[str] = Counter()
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(columns=["id"]):
                    ids = batch["id"]
                    is_one = np.isin(hash_column(ids), suspects)
                    seen.update(ids.filter(pa.array(is_one)).to_pylist())
            # hashes alone may meet by chance
            duplicates |= {sample_id for sample_id, count in seen.items() if count > 1}
        if duplicates:
            raise UsageError(
                f"{len(duplicates)} sample ids occur more than once",
                expected="every sample has its own id",
                found=", ".join(map(repr, sorted(duplicates)[:DUPLICATES_SHOWN])),
                hint="give the manifest an `id` column with unique values, or remove repeated rows",
            )
