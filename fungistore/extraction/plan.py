"""What is missing: the rows of each unit that lack some feature, and the batches they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fungistore.store.feature import Feature
from fungistore.store.samples import SampleTable
from fungistore.store.units import UnitArray


@dataclass(frozen=True)
class Gap:
    """Rows [start, stop) of one unit, and the features that lack them."""

    unit: int
    start: int
    stop: int
    features: frozenset[str]


@dataclass(frozen=True)
class BatchPlan:
    """One batch to be: rows of the sample table, all of one unit, and the features they need.

    `last` marks the unit's last batch.
    """

    unit: int
    rows: list[dict[str, Any]]
    features: frozenset[str]
    last: bool


def find_gaps(
    specs: list[Feature], arrays: dict[str, UnitArray], rows: int, unit_rows: int
) -> list[Gap]:
    """Return what is missing, in the order of the units.

    Rows that a partly filled unit has already are left alone; features that lack the same rows of
    a unit share a gap, so an item is read once for all of them.
    """
    done: dict[str, dict[int, int]] = {}
    for spec in specs:
        array = arrays.get(spec.path)
        commits = array.commits() if array else {}
        rows_done = {unit: commit.rows for unit, commit in commits.items()}
        before = done.get(spec.asked)
        if before is not None:  # a feature of two arrays is done where both are
            rows_done = {u: min(n, before[u]) for u, n in rows_done.items() if u in before}
        done[spec.asked] = rows_done
    gaps = []
    for unit in range(-(-rows // unit_rows)):
        start, stop = unit * unit_rows, min((unit + 1) * unit_rows, rows)
        by_start: dict[int, set[str]] = {}
        for feature, rows_done in done.items():
            by_start.setdefault(start + rows_done.get(unit, 0), set()).add(feature)
        gaps += [
            Gap(unit, first, stop, frozenset(features))
            for first, features in sorted(by_start.items())
            if first < stop
        ]
    return gaps


def plan_batches(gaps: list[Gap], samples: SampleTable, batch_size: int) -> Iterator[BatchPlan]:
    """Yield the batches of some gaps; a batch never straddles a unit."""
    for gap in gaps:
        rows = samples.rows(gap.start, gap.stop)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            yield BatchPlan(gap.unit, batch, gap.features, last=start + batch_size >= len(rows))


def count_samples(gaps: list[Gap]) -> int:
    """Return how many samples some gaps lack features of."""
    return sum(gap.stop - gap.start for gap in gaps)
