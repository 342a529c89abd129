"""Units published several at a time: in one go, in the order of a commit, none held back long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fungistore.errors import StoppedError
from fungistore.store import batches, durable
from fungistore.store.batches import UnitBatch
from fungistore.store.commit import Commit
from fungistore.store.local import LocalBackend
from fungistore.store.units import UnitArray

VALUES = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)


@pytest.fixture
def array(tmp_path: Path) -> UnitArray:
    place = LocalBackend(tmp_path / "s.fungi")
    return UnitArray.create(
        place, "set/a", shape=(40, 3), dtype="float32", unit_rows=4, codec="none", fingerprint="f"
    )


def add(batch: UnitBatch, unit: int) -> None:
    batch.add(unit, VALUES[4 * unit : 4 * unit + 4], "ids", 0)


def test_units_that_come_fast_are_committed_together(
    array: UnitArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All chunks are flushed, with their folders, before the first record is written."""
    flushed: list[str] = []
    renamed: list[str] = []
    sync, rename = durable.sync, Path.rename
    monkeypatch.setattr(durable, "sync", lambda path: (flushed.append(str(path)), sync(path)))
    monkeypatch.setattr(
        Path, "rename", lambda path, to: (renamed.append(str(to)), rename(path, to))[1]
    )
    seen: list[Commit] = []
    with UnitBatch(array, seen.append) as batch:
        for unit in range(10):
            add(batch, unit)
        assert array.commits() == {}
    assert [commit.unit for commit in seen] == list(range(10))
    assert array.commits() == {commit.unit: commit for commit in seen}
    assert all(map(array.holds, seen))
    np.testing.assert_array_equal(array.read(0, 40), VALUES)
    chunks = [name for name in renamed if "/c/" in name]
    assert renamed[: len(chunks)] == chunks
    assert len(renamed) == 2 * len(chunks) == 20
    first_record = next(i for i, name in enumerate(flushed) if "commits/set/a/" in name)
    for name in chunks:
        assert flushed.index(str(Path(name).parent)) < first_record
    assert len(flushed) < 5 * 10


@pytest.mark.parametrize("bound", ["MOST_UNITS", "MOST_BYTES", "MOST_SECONDS"])
def test_a_unit_waits_within_bounds(
    array: UnitArray, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Of number, of memory, of time: a slow loop commits every unit as it comes."""
    bounds = {"MOST_UNITS": 3, "MOST_BYTES": 100, "MOST_SECONDS": -1}
    monkeypatch.setattr(batches, bound, bounds[bound])
    seen: list[Commit] = []
    with UnitBatch(array, seen.append) as batch:
        counts = []
        for unit in range(6):
            add(batch, unit)
            counts.append(len(seen))
    assert (
        counts
        == {
            "MOST_UNITS": [0, 0, 3, 3, 3, 6],
            "MOST_BYTES": [0, 0, 3, 3, 3, 6],
            "MOST_SECONDS": [1, 2, 3, 4, 5, 6],
        }[bound]
    )


def test_what_waits_is_counted_as_whole_chunks(
    array: UnitArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit of one row is filled up before it is written: a sparse import took gigabytes."""
    monkeypatch.setattr(batches, "MOST_BYTES", 2 * 4 * 3 * 4)
    seen: list[Commit] = []
    with UnitBatch(array, seen.append) as batch:
        batch.add(0, VALUES[:1], "ids", 0)
        assert seen == []
        batch.add(1, VALUES[4:5], "ids", 0)
        assert [commit.unit for commit in seen] == [0, 1]


def test_a_stop_commits_what_waits_and_an_error_does_not(array: UnitArray) -> None:
    """SIGTERM costs nothing that was made; after another error nobody knows."""

    def run(first: int, error: BaseException) -> None:
        with UnitBatch(array, lambda _: None) as batch:
            add(batch, first)
            add(batch, first + 1)
            raise error

    with pytest.raises(StoppedError):
        run(0, StoppedError("stopped"))
    assert sorted(array.commits()) == [0, 1]
    with pytest.raises(ZeroDivisionError):
        run(2, ZeroDivisionError())
    assert sorted(array.commits()) == [0, 1]
