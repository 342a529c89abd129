"""Loading batches: the store's exact rows, in one order, whatever reads them and wherever from."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fungistore.choices import Codec
from fungistore.errors import StoppedError, StoreError, UsageError
from fungistore.loff import loader as loader_module
from fungistore.loff.cache import choose_cache
from fungistore.loff.loader import Batch, PatchLoader
from fungistore.loff.options import CacheChoice
from fungistore.machine.context import QUIET, Context
from fungistore.machine.resources import free_memory
from fungistore.report import Silent
from fungistore.store.gather import (
    THREAD_NAME,
    BatchBuffers,
    DecodedChunks,
    MappedChunks,
    runs,
)
from fungistore.store.local import LocalBackend
from fungistore.store.units import UnitArray
from fungistore.training.order import Sequential, Shuffled, Weighted

ROWS, UNIT_ROWS, SHAPE = 75, 8, (4, 4, 6)
WAYS: list[tuple[Codec, CacheChoice]] = [
    ("none", "none"),
    ("zstd", "none"),
    ("none", "ram"),
    ("zstd", "ram"),
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


class Listening(Silent):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def make_array(
    root: Path,
    codec: Codec = "none",
    *,
    rows: int = ROWS,
    unit_rows: int = UNIT_ROWS,
    shape: tuple[int, ...] = SHAPE,
    dtype: str = "float16",
    units: int | None = None,
) -> UnitArray:
    array = UnitArray.create(
        LocalBackend(root),
        "vit/patches",
        shape=(rows, *shape),
        dtype=dtype,
        unit_rows=unit_rows,
        codec=codec,
        fingerprint="f1",
    )
    values = np.random.default_rng(0).standard_normal((rows, *shape)).astype(dtype)
    for unit in range(array.units if units is None else units):
        array.publish(unit, values[unit * unit_rows :][:unit_rows], "ids", failed=0)
    return array


def epoch(loader: PatchLoader, number: int = 0, start_step: int = 0) -> list[Batch]:
    return list(loader.epoch(number, start_step))


def rows_of(batches: list[Batch]) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist()]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [b.rows.tolist() for b in ours] == [b.rows.tolist() for b in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.values, other.values)


def assert_content(batches: list[Batch], array: UnitArray) -> None:
    whole = array.read(0, array.rows)
    for batch in batches:
        assert batch.rows.dtype == np.int64
        np.testing.assert_array_equal(np.asarray(batch.values), whole[batch.rows])


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


# --- what is delivered


@pytest.mark.parametrize(("codec", "cache"), WAYS)
def test_an_epoch_has_every_row_once_with_its_stored_values(
    tmp_path: Path, codec: Codec, cache: Any
) -> None:
    array = make_array(tmp_path, codec)
    rows = np.setdiff1d(np.arange(ROWS), [0, 9, 40])
    loader = PatchLoader(array, Shuffled(rows, 1), 16, cache=cache, window_bytes=4000)
    batches = epoch(loader)
    assert bool(array.plain) == (codec == "none")
    assert loader.cache == cache
    assert sorted(rows_of(batches)) == rows.tolist()
    assert_content(batches, array)
    assert [len(b.rows) for b in batches] == [16, 16, 16, 16, 8]
    assert all(b.values.dtype == torch.float16 for b in batches)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_array_and_any_rows_are_delivered_exactly(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    count = data.draw(st.integers(1, 40), "rows")
    array = make_array(
        tmp_path_factory.mktemp("store"),
        data.draw(st.sampled_from(["none", "zstd", "bitround"]), "codec"),
        rows=count,
        unit_rows=data.draw(st.integers(1, 16), "unit rows"),
        shape=data.draw(st.sampled_from([(), (5,), (2, 3, 4)]), "shape"),
        dtype=data.draw(st.sampled_from(["float16", "float32"]), "dtype"),
    )
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1)), "chosen")), np.int64)
    kinds = [Shuffled(rows, 5), Sequential(rows), Weighted(rows, 1.0 + rows, 5)]
    order = data.draw(st.sampled_from(kinds), "order")
    loader = PatchLoader(
        array,
        order,
        data.draw(st.integers(1, 20), "batch size"),
        cache=data.draw(st.sampled_from(["none", "ram"]), "cache"),
        threads=data.draw(st.integers(1, 3), "threads"),
        window_bytes=data.draw(st.integers(0, 2000), "window"),
        remainder=data.draw(st.sampled_from(["keep", "drop"]), "remainder"),
    )
    batches = epoch(loader, 2)
    assert_content(batches, array)
    assert len(batches) == loader.steps
    if loader.remainder == "keep":
        assert len(rows_of(batches)) == len(rows)
        assert isinstance(order, Weighted) or sorted(rows_of(batches)) == rows.tolist()
    assert_same(batches[1:], epoch(loader, 2, min(1, loader.steps)))


def test_a_sequence_comes_in_order(tmp_path: Path) -> None:
    for codec in ("none", "zstd"):
        array = make_array(tmp_path / codec, codec)
        batches = epoch(PatchLoader(array, Sequential(np.arange(3, 70)), 10, cache="none"))
        assert rows_of(batches) == list(range(3, 70))
        assert_content(batches, array)


def test_a_row_that_is_drawn_twice_comes_twice(tmp_path: Path) -> None:
    for codec, cache in WAYS:
        array = make_array(tmp_path / f"{codec}{cache}", codec)
        order = Weighted(np.arange(ROWS), np.arange(ROWS) % 10 == 3, seed=0)
        batches = epoch(PatchLoader(array, order, 16, cache=cache, window_bytes=1))
        assert len(rows_of(batches)) == ROWS
        assert len(set(rows_of(batches))) <= 8
        assert_content(batches, array)


def test_batches_stay_as_they_are_when_later_ones_are_read(tmp_path: Path) -> None:
    """Buffers are used again, but never one that a tensor, or a view of it, still shows."""
    array = make_array(tmp_path)
    whole = array.read(0, ROWS)
    loader = PatchLoader(array, Shuffled(np.arange(ROWS), 0), 8, cache="none")
    kept = [
        (batch.rows[2:4], batch.values[2:4].numpy() if number % 2 else batch.values[2:4])
        for number in range(5)
        for batch in loader.epoch(number)
        if len(batch.rows) == 8
    ]
    for rows, values in kept:
        np.testing.assert_array_equal(np.asarray(values), whole[rows])


def test_a_buffer_comes_back_when_it_is_let_go() -> None:
    buffers = BatchBuffers((4, 2), np.dtype("float16"), spare=2)
    first = buffers.take(3)
    place, view = first.data_ptr(), first[1:]
    del first
    assert buffers.take(4).data_ptr() != place
    del view
    assert place in {buffers.take(4).data_ptr() for _ in range(2)} | {buffers.take(2).data_ptr()}


# --- exactness


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_threads_and_caches_change_nothing(tmp_path: Path, codec: Codec) -> None:
    array = make_array(tmp_path, codec)
    order = Shuffled(np.arange(ROWS), 7)
    one = epoch(PatchLoader(array, order, 10, cache="none", threads=1, window_bytes=5000), 3)
    for cache, threads in (("none", 4), ("ram", 1), ("ram", 4)):
        loader = PatchLoader(array, order, 10, cache=cache, threads=threads, window_bytes=5000)
        assert_same(one, epoch(loader, 3))


@pytest.mark.parametrize(("codec", "cache"), WAYS)
@pytest.mark.parametrize("remainder", ["keep", "drop"])
def test_going_on_from_a_step_gives_the_rest(
    tmp_path: Path, codec: Codec, cache: Any, remainder: Any
) -> None:
    array = make_array(tmp_path, codec)

    def loader() -> PatchLoader:
        order = Shuffled(np.arange(ROWS), 2)
        return PatchLoader(
            array, order, 16, cache=cache, remainder=remainder, window_bytes=4000, threads=2
        )

    whole = epoch(loader(), 4)
    assert len(whole) == loader().steps == (5 if remainder == "keep" else 4)
    for step in range(len(whole) + 1):
        assert_same(whole[step:], epoch(loader(), 4, step))
    for wrong in (-1, len(whole) + 1):
        with pytest.raises(ValueError, match="step"):
            epoch(loader(), 4, wrong)


def test_epochs_differ(tmp_path: Path) -> None:
    for codec in ("none", "zstd"):
        array = make_array(tmp_path / codec, codec)
        loader = PatchLoader(array, Shuffled(np.arange(ROWS), 0), 16, cache="none")
        assert rows_of(epoch(loader, 0)) != rows_of(epoch(loader, 1))


def test_the_store_is_never_written(tmp_path: Path) -> None:
    array = make_array(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    before = [(path, path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    for cache in ("none", "ram"):
        for batch in epoch(PatchLoader(array, Shuffled(np.arange(ROWS), 0), 16, cache=cache)):
            batch.values.zero_()  # the batch is the caller's
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files
    assert [(path, path.stat().st_mtime_ns, path.read_bytes()) for path in files] == before


# --- how compressed units are read


class CountingArray(UnitArray):
    def __init__(self, root: Path, name: str) -> None:
        super().__init__(LocalBackend(root), name)
        self.starts: list[int] = []

    def read(self, start: int, stop: int) -> NDArray[Any]:
        self.starts.append(start)
        return super().read(start, stop)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("kind", ["shuffled", "sequential"])
def test_each_compressed_unit_is_decoded_once_an_epoch(
    tmp_path: Path, threads: int, kind: str
) -> None:
    make_array(tmp_path, "zstd")
    array = CountingArray(tmp_path, "vit/patches")
    rows = np.flatnonzero(np.arange(ROWS) % 8 != 5)
    order = Shuffled(rows, 0) if kind == "shuffled" else Sequential(rows)
    loader = PatchLoader(array, order, 7, cache="none", threads=threads, window_bytes=8 * 8 * 192)
    assert loader.window == 4
    for number in range(3):
        array.starts.clear()
        epoch(loader, number)
        assert sorted(array.starts) == [unit * UNIT_ROWS for unit in range(array.units)]


def test_at_most_two_windows_of_decoded_units_are_held(tmp_path: Path) -> None:
    array = make_array(tmp_path, "zstd", rows=160)
    order = Shuffled(np.arange(160), 0).draw_in_windows(0, UNIT_ROWS, 4)
    reader = DecodedChunks(array, order, 4)
    out = np.empty((10, *SHAPE), np.float16)
    most = 0
    for rows in np.split(order, 16):
        for job in reader.jobs(rows, out):
            job()
        most = max(most, len(reader._blocks))
        np.testing.assert_array_equal(out, array.read(0, 160)[rows])
    assert 4 < most <= 2 * 4 + 1
    assert not reader._blocks


# --- what is refused


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_rows_that_are_not_committed_are_refused(tmp_path: Path, codec: Codec) -> None:
    array = make_array(tmp_path, codec, units=4)
    PatchLoader(array, Shuffled(np.arange(32), 0), 8, cache="none")
    for row in (32, 74, 75, 10_000, -1):
        with pytest.raises(StoreError, match="1 of 33 rows are not committed") as caught:
            PatchLoader(array, Shuffled(np.append(np.arange(32), row), 0), 8, cache="none")
        assert f"row {row} " in str(caught.value)


def test_rows_behind_a_partly_filled_unit_are_refused(tmp_path: Path) -> None:
    array = make_array(tmp_path, rows=16, units=1)
    array.publish(1, np.zeros((3, *SHAPE), np.float16), "ids", failed=0)
    PatchLoader(array, Sequential(np.arange(11)), 8)
    with pytest.raises(StoreError, match="not committed"):
        PatchLoader(array, Sequential(np.arange(12)), 8)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("keep", [None, 0, 100])
def test_a_chunk_cut_short_is_an_error_before_and_during_training(
    tmp_path: Path, codec: Codec, keep: int | None
) -> None:
    array = make_array(tmp_path, codec)
    loader = PatchLoader(array, Shuffled(np.arange(ROWS), 0), 8, cache="none")
    chunk = array.chunk_path(5)
    if keep is None:
        chunk.unlink()
    else:
        os.truncate(chunk, keep)
    with pytest.raises(StoreError, match="a chunk"):
        epoch(loader)
    assert not our_threads()
    with pytest.raises(StoreError, match="8 of 75 rows are not committed"):
        PatchLoader(array, Shuffled(np.arange(ROWS), 0), 8, cache="none")


def test_sizes_and_threads_must_be_positive(tmp_path: Path) -> None:
    array = make_array(tmp_path, units=1)
    for batch_size, threads in ((0, 1), (4, 0)):
        with pytest.raises(ValueError, match="batches of"):
            PatchLoader(array, Sequential(np.arange(3)), batch_size, threads=threads)


# --- threads and memory


@pytest.mark.parametrize(("codec", "cache"), WAYS)
def test_leaving_an_epoch_early_leaves_no_thread(tmp_path: Path, codec: Codec, cache: Any) -> None:
    array = make_array(tmp_path, codec)
    loader = PatchLoader(array, Shuffled(np.arange(ROWS), 0), 4, cache=cache)
    for batch in loader.epoch(0):
        assert our_threads()
        assert len(batch.rows) == 4
        break
    del batch
    assert not our_threads()
    stream = loader.epoch(1)
    next(stream)
    stream.close()
    assert not our_threads()
    epoch(loader)
    assert not our_threads()


def test_batches_are_read_before_they_are_asked_for(tmp_path: Path) -> None:
    array = make_array(tmp_path)
    loader = PatchLoader(array, Sequential(np.arange(ROWS)), 8, cache="none", threads=1)
    stream = loader.epoch(0)
    next(stream)
    time.sleep(0.2)
    for unit in range(1, array.units):  # a batch is a unit here; the next one was read already
        array.chunk_path(unit).unlink()
    assert next(stream).rows[0] == 8
    with pytest.raises(StoreError):
        next(stream)


def test_memory_is_bounded_without_a_cache(tmp_path: Path) -> None:
    """Three epochs of 16 MB take no more than a few batches of 0.26 MB."""
    array = make_array(tmp_path, rows=512, unit_rows=64, shape=(128, 128))
    loader = PatchLoader(array, Shuffled(np.arange(512), 0), 8, cache="none")
    tracemalloc.start()
    try:
        for number in range(3):
            for batch in loader.epoch(number):
                assert len(batch.rows) == 8
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 8 * 128 * 128 * 2


def test_many_chunks_need_few_open_files(tmp_path: Path) -> None:
    import resource

    array = make_array(tmp_path, rows=120, unit_rows=1, shape=(2,))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(64, 2 * len(os.listdir("/proc/self/fd"))), hard)
    )
    try:
        loader = PatchLoader(array, Shuffled(np.arange(120), 0), 50, cache="none", threads=4)
        batches = epoch(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_content(batches, array)


def test_neighbouring_rows_are_read_at_once(tmp_path: Path) -> None:
    rows = np.array([0, 1, 2, 2, 3, 6, 5, 6, 7, 8, 9])
    stretches = [rows[at : at + count].tolist() for at, count in runs(rows, unit_rows=8)]
    assert stretches == [[0, 1, 2], [2, 3], [6], [5, 6, 7], [8, 9]]
    assert list(runs(np.array([4]), 8)) == [(0, 1)]
    array = make_array(tmp_path)
    out = np.empty((20, *SHAPE), np.float16)
    for job in MappedChunks(array, parts=3).jobs(np.arange(20)[::-1], out):
        job()
    np.testing.assert_array_equal(out, array.read(0, 20)[::-1])


# --- caches


def test_auto_keeps_rows_in_memory_if_they_fit(tmp_path: Path) -> None:
    said = Listening()
    loader = PatchLoader(
        make_array(tmp_path), Sequential(np.arange(ROWS)), 8, context=Context(said)
    )
    assert loader.cache == "ram"
    assert len(said.notices) == 1
    assert "kept in memory" in said.notices[0]


def test_auto_reads_from_disk_what_does_not_fit() -> None:
    free = free_memory()
    assert free is not None
    assert free > 1_000_000
    said, cpu = Listening(), torch.device("cpu")
    assert choose_cache("auto", free, cpu, Context(said)) == "none"
    assert "from disk" in said.notices[0]
    assert choose_cache("auto", free // 4, cpu, Context(said)) == "ram"
    assert choose_cache("ram", free * 2 // 3, cpu, Context(said)) == "ram"
    with pytest.raises(UsageError, match="do not fit"):
        choose_cache("ram", free * 2, cpu, Context(said))


def test_a_gpu_cache_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="no GPU"):
        choose_cache("gpu", 1, torch.device("cpu"), QUIET)


def test_loading_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "LOAD_BYTES", 1000)
    array = make_array(tmp_path)
    with pytest.raises(StoppedError):
        PatchLoader(
            array, Sequential(np.arange(ROWS)), 8, cache="ram", context=Context(stop=lambda: True)
        )
    assert not our_threads()
    loader = PatchLoader(array, Sequential(np.arange(ROWS)), 8, cache="ram")
    assert_content(epoch(loader), array)


@needs_cuda
@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("cache", ["auto", "gpu", "ram", "none"])
def test_batches_reach_the_gpu(tmp_path: Path, codec: Codec, cache: Any) -> None:
    array = make_array(tmp_path, codec)
    order, cuda = Shuffled(np.arange(ROWS), 3), torch.device("cuda")
    loader = PatchLoader(array, order, 8, cache=cache, device=cuda, window_bytes=4000)
    assert loader.cache == ("gpu" if cache == "auto" else cache)
    on_cpu = epoch(PatchLoader(array, order, 8, cache="none", window_bytes=4000), 1)
    on_gpu = epoch(loader, 1)
    assert all(batch.values.is_cuda for batch in on_gpu)
    assert_same([Batch(b.rows, b.values.cpu()) for b in on_gpu], on_cpu)
