"""Shards are as large as files should be: who reads one holds some of its chunks, never all."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from feature_world import make_store
from fungistore.copying.stage import copy_store
from fungistore.copying.units import committed, matches
from fungistore.errors import StoppedError
from fungistore.exchange import formats
from fungistore.exchange.export import export_features
from fungistore.exchange.options import ExportOptions
from fungistore.extraction.compute import ComputedBatch, _commit_unit
from fungistore.extraction.plan import BatchPlan
from fungistore.indexing import rows
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.machine.context import QUIET, Context
from fungistore.matrices import blocks
from fungistore.matrices.blocks import open_features
from fungistore.store import units
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.rebuild import rebuild_records
from fungistore.verification.verify import verify_store

ROWS, DIM, CHUNK = 1 << 15, 512, 256
SHARD = ROWS * DIM * 2  # bytes: all rows are in one
STRETCH = SHARD // 32  # of float16, read at once


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one shard, which has a row that cannot be used."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((ROWS, DIM), np.float32).astype(np.float16)
    vectors[ROWS - 3] = np.nan
    where = tmp_path_factory.mktemp("shard") / "s.fungi"
    layout = {"unit_rows": ROWS, "shard_units": ROWS // CHUNK}
    make_store(where, {"embeddings": vectors}, ["a", "b"] * (ROWS // 2), **layout)
    return where


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same, where what is read at once is small beside it."""
    monkeypatch.setattr(units, "STRETCH_BYTES", STRETCH)
    for module in (blocks, rows):
        monkeypatch.setattr(module, "STREAM_BYTES", 2 * STRETCH)
    monkeypatch.setattr(formats, "READ_BYTES", 2 * STRETCH)
    shutil.copytree(made, tmp_path / "s.fungi")
    return Store.open(tmp_path / "s.fungi")


@contextmanager
def within(most: int) -> Iterator[None]:
    """Fail where Python and NumPy hold more than some bytes at any time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak} bytes"


def embeddings(store: Store) -> UnitArray:
    return store.arrays("set")["embeddings"]


def test_rows_that_cannot_be_used_are_found_in_little_memory(store: Store) -> None:
    with within(SHARD // 3):
        usable = open_features(store).coverage().usable
    assert np.flatnonzero(~usable).tolist() == [ROWS - 3]


def test_an_export_holds_a_part_of_a_shard(store: Store, tmp_path: Path) -> None:
    """Its values are those of one read; the row that is no number is left out."""
    file = tmp_path / "x.npy"
    with within(SHARD // 3):
        export_features(store.where, file, ExportOptions(dtype="float16", raw=True), context=QUIET)
    found = np.load(file, mmap_mode="r")
    whole = embeddings(store).read(0, ROWS)
    assert np.array_equal(found, np.delete(whole, ROWS - 3, axis=0))


def test_an_index_reads_a_part_of_a_shard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within a shard it goes on there; the index is that of plain units."""
    read: list[int] = []
    reading = UnitArray.read

    def counting(array: UnitArray, start: int, stop: int):
        read.append(stop - start)
        return reading(array, start, stop)

    monkeypatch.setattr(UnitArray, "read", counting)
    options = IndexOptions(factory="Flat")
    asked = iter([False] * 9)
    stopping = Context(QUIET.reporter, lambda: next(asked, True))
    with pytest.raises(StoppedError, match="stopped"):
        build_index(store.where, options, context=stopping)
    first = sum(read)
    assert ROWS < first < 2 * ROWS  # all of them were looked at for what cannot be used
    done = build_index(store.where, options, context=QUIET)
    assert sum(read) - first < ROWS
    assert max(read) * DIM * 2 <= STRETCH
    assert (done.index.vectors, done.index.excluded) == (ROWS - 1, 1)
    again = build_index(store.where, options, context=QUIET)
    assert again.added == 0


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_copy_holds_a_shard_once(store: Store, is_plain: bool) -> None:
    """That it matches its record is seen without a second copy of it in memory."""
    array = embeddings(store)
    file = array.chunk_path(0).read_bytes()
    (unit,) = committed(array, ROWS).values()
    if not is_plain:
        object.__setattr__(array, "plain", None)
    with within(SHARD // 3 if is_plain else SHARD + SHARD // 3):  # zarr copies what it is given
        assert matches(array, unit.commit, file)
    damaged = bytearray(file)
    damaged[len(file) // 3] ^= 1
    assert not matches(array, unit.commit, bytes(damaged))


def test_verification_holds_a_part_of_a_shard(store: Store) -> None:
    """So does a rebuild of records, and what they say is what they said."""
    record = next((store.root / "commits").rglob("*.json"))
    before = record.read_bytes()
    with within(SHARD // 3):
        assert verify_store(store.where).is_sound
        record.unlink()
        assert verify_store(store.where).findings
    with within(SHARD):  # with the sample table's rows, which are as many
        rebuild_records(store.where, context=QUIET)
    assert record.read_bytes() == before


def test_a_shard_that_is_published_is_in_memory_once(store: Store, tmp_path: Path) -> None:
    """What was written is read back a part at a time."""
    array = embeddings(store)
    block, (unit,) = array.read(0, ROWS), array.commits().values()
    array.forget(0)
    with within(SHARD // 3):
        assert array.publish(0, block, unit.ids, unit.failed) == unit


def test_shards_are_copied(store: Store, tmp_path: Path) -> None:
    copy_store(store.where, tmp_path / "copy.fungi", context=QUIET)
    assert verify_store(tmp_path / "copy.fungi").is_sound


def test_a_shard_that_was_computed_is_put_together_in_its_own_memory(store: Store) -> None:
    """Batches go as they are taken in: the unit is in memory once, not twice or three times."""
    array = embeddings(store)
    (unit,) = array.commits().values()
    samples, values = store.samples.rows(0, ROWS), array.read(0, ROWS)
    array.forget(0)
    parts = []
    for start in range(0, ROWS, 1024):
        some = samples[start : start + 1024]
        plan = BatchPlan(0, some, frozenset(("embeddings",)), last=start + 1024 == ROWS)
        block = {"embeddings": values[start : start + 1024]}
        parts.append(ComputedBatch(plan, [], block, np.zeros(1024, np.uint64)))
    with within(SHARD + 3 * SHARD // 4):  # half of one are the rows of the sample table
        _commit_unit(store, {"embeddings": array}, parts, QUIET)
    assert array.commits()[0].checksum == unit.checksum
