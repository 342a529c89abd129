"""What is there, what is missing, how large and how long it will be."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.loader import Work, load_batches
from fungistore.extraction.resolve import ArraySpec
from fungistore.store import SampleTable, UnitArray

UNIT_SECONDS = 60  # a kill loses about this much work at most
PATCH_CHUNK_BYTES = 100_000_000
LARGEST_UNIT = 1 << 16
PROBES = 2


@dataclass(frozen=True)
class Task:
    """Rows [start, stop) of one unit, and the features that lack them."""

    unit: int
    start: int
    stop: int
    features: frozenset[str]


@dataclass(frozen=True)
class Rate:
    """Images per second, the slowest and the fastest of the batches that were timed."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a dry run tells.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        samples: images in the source and the store together, after --limit.
        images: images still to be computed.
        units: units still to be computed.
        unit_rows: rows of a unit.
        batch_size: images, or views, in one forward.
        bytes: bytes still to be written, before any codec.
        free_bytes: bytes free where the store is.
        seconds: shortest and longest expected time.
        forwards_per_image: what one image costs.
    """

    store: str
    feature_set: str
    samples: int
    images: int
    units: int
    unit_rows: int
    batch_size: int
    bytes: int
    free_bytes: int
    seconds: tuple[float, float]
    forwards_per_image: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def plan_tasks(
    specs: list[ArraySpec], arrays: dict[str, UnitArray], rows: int, unit_rows: int
) -> list[Task]:
    """Return what is missing, in the order of the units.

    Rows that a partly filled unit has already are left alone; features that lack the same rows of
    a unit share a task, so an image is decoded once for all of them.
    """
    done: dict[str, dict[int, int]] = {}
    for spec in specs:
        array = arrays.get(spec.name)
        commits = array.commits() if array else {}
        rows_done = {unit: commit.rows for unit, commit in commits.items()}
        before = done.get(spec.feature)
        if before is not None:  # a feature of two arrays is done where both are
            rows_done = {u: min(n, before[u]) for u, n in rows_done.items() if u in before}
        done[spec.feature] = rows_done
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


def measure_rate(
    samples: SampleTable,
    features: frozenset[str],
    maker: FeatureMaker,
    batch_size: int,
    workers: int,
) -> Rate:
    """Time two small batches of the store's first images, after one image of warm-up.

    A batch has about `batch_size` forwards, so the measurement costs about as much as two batches
    of embeddings, whatever the objectives.
    """
    count = max(1, batch_size // maker.forwards(features))
    total = min(len(samples), 1 + PROBES * count)

    def works() -> Iterator[Work]:
        starts = [0, *range(1, max(2, total), count)]
        for start, stop in zip(starts, [*starts[1:], total], strict=True):
            rows = samples.rows(min(start, total - 1), max(stop, min(start, total - 1) + 1))
            yield Work(0, rows, features, last=False)

    rates = []
    began = time.perf_counter()
    for batch in load_batches(works(), maker.draw, workers):
        maker.compute(batch.drawn, features)
        now = time.perf_counter()
        rates.append(len(batch.work.rows) / (now - began))
        began = now
    measured = rates[1:] or rates
    return Rate(min(measured), max(measured))


def choose_unit_rows(rate: Rate, specs: list[ArraySpec]) -> int:
    """Return the largest power of two that keeps a unit short and a patch chunk small."""
    rows = min(rate.high * UNIT_SECONDS, LARGEST_UNIT)
    rows = min([rows, *(PATCH_CHUNK_BYTES / s.row_bytes for s in specs if s.feature == "patches")])
    return 1 << max(0, int(rows).bit_length() - 1)


def free_bytes(path: Path) -> int:
    """Return the bytes free on the file system that holds `path`, or will."""
    existing = next(
        parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists()
    )
    status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize
