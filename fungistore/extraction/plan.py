"""What is missing: the rows of each unit that lack some feature, and the batches they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fungistore.extraction.loader import Work
from fungistore.store.feature import Feature
from fungistore.store.samples import SampleTable
from fungistore.store.units import UnitArray


@dataclass(frozen=True)
class Task:
    """Rows [start, stop) of one unit, and the features that lack them."""

    unit: int
    start: int
    stop: int
    features: frozenset[str]


def plan_tasks(
    specs: list[Feature], arrays: dict[str, UnitArray], rows: int, unit_rows: int
) -> list[Task]:
    """Return what is missing, in the order of the units.

    Rows that a partly filled unit has already are left alone; features that lack the same rows of
    a unit share a task, so an image is decoded once for all of them.
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
    tasks = []
    for unit in range(-(-rows // unit_rows)):
        start, stop = unit * unit_rows, min((unit + 1) * unit_rows, rows)
        by_start: dict[int, set[str]] = {}
        for feature, rows_done in done.items():
            by_start.setdefault(start + rows_done.get(unit, 0), set()).add(feature)
        tasks += [
            Task(unit, first, stop, frozenset(features))
            for first, features in sorted(by_start.items())
            if first < stop
        ]
    return tasks


def batches_of(tasks: list[Task], samples: SampleTable, batch_size: int) -> Iterator[Work]:
    """Yield the batches of some tasks; a batch never straddles a unit."""
    for task in tasks:
        rows = samples.rows(task.start, task.stop)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            yield Work(task.unit, batch, task.features, last=start + batch_size >= len(rows))


def count_images(tasks: list[Task]) -> int:
    """Return how many images some tasks compute."""
    return sum(task.stop - task.start for task in tasks)


def count_bytes(tasks: list[Task], specs: list[Feature]) -> int:
    """Return the bytes that some tasks write, before any codec."""
    return sum(
        (task.stop - task.start) * spec.row_bytes
        for task in tasks
        for spec in specs
        if spec.asked in task.features
    )
