"""Which known samples are gone from a source, as far as that is certain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fungistore.sources.measuring import measure
from fungistore.sources.sample import Source, origin_of
from fungistore.store.census import Census
from fungistore.store.differences import GONE, Differences
from fungistore.store.samples import Part, Rows, SampleTable

NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Missing:
    """What a listing has not found.

    Attributes:
        removed: rows whose file is gone from the source.
        back: rows that the source has.
        unlisted: how many rows of other sources below its root it does not list.
        parts: of the table, with the source that is known to have all of their rows.
    """

    removed: Rows
    back: Rows
    unlisted: int
    parts: tuple[Part, ...]

    def joined(self, listed: Rows) -> Rows:
        """Return the rows that are gone, after those that were before."""
        stay = without(listed, self.back)
        return np.sort(np.concatenate([stay, without(self.removed, stay)]))


def without(rows: Rows, others: Rows) -> Rows:
    """Return those of some rows that are not among others; both ascending, without repeats."""
    at = np.searchsorted(others, rows)
    is_other = at < len(others)
    is_other[is_other] = others[at[is_other]] == rows[is_other]
    return rows[~is_other]


def find_missing(table: SampleTable, source: Source, census: Census, found: Differences) -> Missing:
    """Tell which rows are gone; a source that may be a part of what there is says nothing.

    A row is gone if its source, which lists all that it has, does not list it any more; if another
    source with this root does not list it and its file is not there; or if it is listed and its
    file is not there any more. A source of which nothing is there is a disk that is not mounted.

    Args:
        table: with the roots of now.
        source: that was listed.
        census: of its samples.
        found: how known ones differ.
    """
    seen = census.seen_rows()
    gone = found.rows_of(GONE)
    back = without(seen, gone)
    origin, root = origin_of(source), source.root
    if not len(back) and not census.added:
        return Missing(NONE, NONE, 0, tuple(table.parts))
    unseen, parts = census.unseen_rows(), []
    removed, doubtful = [gone], [NONE]
    for part, first in table.firsts():
        start, stop = np.searchsorted(unseen, (first, first + part.rows))
        is_own = bool(origin) and part.root == root
        if is_own and start == stop:
            part = replace(part, origin=origin)
        elif is_own and part.origin == origin:
            removed.append(unseen[start:stop])
        elif is_own:
            doubtful.append(unseen[start:stop])
            if stop - start < part.rows:  # shared: what one source lacks, another may have
                part = replace(part, origin="")
        parts.append(part)
    others = np.concatenate(doubtful)
    absent = _absent(table, root, others)
    every = np.sort(np.concatenate([*removed, absent]))
    return Missing(every, back, len(others) - len(absent), tuple(parts))


def _absent(table: SampleTable, root: str, rows: Rows) -> Rows:
    """Return those of some ascending rows that had a file, and have none now."""
    found, stop = [NONE], 0
    for batch in table.batches("uri", "bytes") if len(rows) else ():
        first, stop = stop, stop + len(batch)
        start, end = np.searchsorted(rows, (first, stop))
        if start < end:
            there = batch.take(rows[start:end] - first)
            sizes, _ = measure(root, there["uri"])
            is_gone = there["bytes"].is_valid().to_numpy(False) & sizes.is_null().to_numpy(False)
            found.append(rows[start:end][is_gone])
    return np.concatenate(found)
