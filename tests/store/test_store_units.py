"""Units: what is written is what is read, and a record never vouches for what is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fungistore.choices import Codec
from fungistore.errors import StoreError
from fungistore.store.chunks import encode
from fungistore.store.commit import Commit, parse_commit, record_name, record_unit
from fungistore.store.feature import Feature
from fungistore.store.folder import Folder
from fungistore.store.groups import array_names
from fungistore.store.local import LocalBackend
from fungistore.store.units import UnitArray

CODECS: tuple[Codec, ...] = get_args(Codec)
LOSSLESS: tuple[Codec, ...] = ("none", "zstd")
ROWS, UNIT_ROWS = 20, 8  # units of 8, 8 and 4 rows
WIDE = (96,)  # enough for blosc to compress; it stores less than 128 bytes as they are
ROW_SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 3), (2, 2, 3)]
SHARED_TMP_PATH = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_array(
    root: Path,
    *,
    rows: int = ROWS,
    row_shape: tuple[int, ...] = (3,),
    dtype: str = "float16",
    codec: Codec = "none",
    name: str = "vit/gradients/kl",
) -> UnitArray:
    return UnitArray.create(
        LocalBackend(root),
        name,
        shape=(rows, *row_shape),
        dtype=dtype,
        unit_rows=UNIT_ROWS,
        codec=codec,
        fingerprint="f1",
    )


def normal(rows: int, row_shape: tuple[int, ...] = (3,), dtype: str = "float16") -> NDArray[Any]:
    return np.random.default_rng(rows).standard_normal((rows, *row_shape)).astype(dtype)


def publish_all(array: UnitArray, values: NDArray[Any]) -> None:
    for unit in range(array.units):
        block = values[unit * array.unit_rows : (unit + 1) * array.unit_rows]
        array.publish(unit, block, ids=f"ids of {unit}", failed=0)


def write_chunk(array: UnitArray, unit: int, block: NDArray[Any]) -> None:
    """Publish a chunk as a kill before its record leaves it."""
    array.folder.publish(array.chunk_key(unit), *encode(block, array.unit_rows, array.codec))


def reopened(array: UnitArray, root: Path) -> UnitArray:
    return UnitArray(LocalBackend(root), array.name)


def record_path(root: Path, array: UnitArray, unit: int) -> Path:
    return root / "commits" / array.name / f"{unit:08d}.json"


def rewrite_record(root: Path, array: UnitArray, number: int, **changes: Any) -> None:
    path = record_path(root, array, number)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


# --- publishing and reading back


@pytest.mark.parametrize("row_shape", ROW_SHAPES, ids=lambda shape: f"{1 + len(shape)}d")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("codec", LOSSLESS)
def test_lossless_codecs_read_back_bit_for_bit(
    tmp_path: Path, codec: Codec, dtype: str, row_shape: tuple[int, ...]
) -> None:
    """Whole units and a partly filled last one come back exactly, after reopening too."""
    array = make_array(tmp_path, row_shape=row_shape, dtype=dtype, codec=codec)
    values = normal(ROWS, row_shape, dtype)
    publish_all(array, values)
    again = reopened(array, tmp_path)
    assert (again.rows, again.unit_rows, again.units) == (ROWS, UNIT_ROWS, 3)
    assert again.read(0, ROWS).dtype == dtype
    np.testing.assert_array_equal(again.read(0, ROWS), values)
    np.testing.assert_array_equal(again.read(5, 18), values[5:18])
    assert [commit.rows for commit in again.commits().values()] == [8, 8, 4]
    assert all(again.holds(commit) for commit in again.commits().values())


@pytest.mark.parametrize("row_shape", [(), (4, 4, 96)], ids=["1d", "4d"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bitround_is_off_by_less_than_one_percent(
    tmp_path: Path, dtype: str, row_shape: tuple[int, ...]
) -> None:
    """The lossy codec's relative error is below 1 % in norm and half a kept bit in any value."""
    array = make_array(tmp_path, row_shape=row_shape, dtype=dtype, codec="bitround")
    values = normal(ROWS, row_shape, dtype)
    publish_all(array, values)
    stored = array.read(0, ROWS).astype(np.float64)
    error = np.abs(stored - values)
    assert np.linalg.norm(error) < 0.01 * np.linalg.norm(values.astype(np.float64))
    assert (error <= 2**-6 * np.abs(values.astype(np.float64))).all()
    assert all(array.holds(commit) for commit in array.commits().values())


def test_bitround_rounds_once(tmp_path: Path) -> None:
    """Writing rows that were read back changes no bit: completing a unit never degrades it."""
    array = make_array(tmp_path, codec="bitround", row_shape=WIDE)
    array.publish(0, normal(8, WIDE), ids="", failed=0)
    once = array.read(0, 8)
    array.publish(0, once, ids="", failed=0)
    np.testing.assert_array_equal(array.read(0, 8), once)


def test_publishing_leaves_the_callers_block_alone(tmp_path: Path) -> None:
    """Rounding happens on the way to the disk, not in the array that was handed over."""
    array = make_array(tmp_path, codec="bitround")
    block = normal(8)
    array.publish(0, block, ids="", failed=0)
    np.testing.assert_array_equal(block, normal(8))


@pytest.mark.parametrize(("bits", "dtype"), [(0x7FFF, "float16"), (0x7FFFFFFF, "float32")])
def test_bitround_keeps_every_nan(tmp_path: Path, bits: int, dtype: str) -> None:
    """A NaN stays one and is counted, whatever its payload: CUDA's has all mantissa bits set."""
    array = make_array(tmp_path, codec="bitround", dtype=dtype)
    block = normal(8, dtype=dtype)
    block.view(f"u{block.itemsize}")[3] = bits
    assert np.isnan(block[3]).all()
    commit = array.publish(0, block, ids="", failed=0)
    assert np.isnan(array.read(3, 4)).all()
    assert commit.nan_rows == 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bitround_makes_no_infinity(tmp_path: Path, dtype: str) -> None:
    """The largest values of a type, which would round up out of it, stay finite and as large."""
    array = make_array(tmp_path, codec="bitround", dtype=dtype)
    most = float(np.finfo(dtype).max)
    block = np.repeat(normal(8, dtype=dtype)[:, :1], array.array.shape[1], axis=1)
    block[:4] = np.array([most, -most, most * 0.995, most * 0.98], dtype)[:, None]
    block[4] = -np.inf
    commit = array.publish(0, block, ids="", failed=0)
    stored = array.read(0, 8)
    np.testing.assert_allclose(stored[:4], block[:4], rtol=2**-6)
    assert commit.inf_rows == 1
    assert (stored[4] == -np.inf).all()


@pytest.mark.parametrize("row_shape", ROW_SHAPES, ids=lambda shape: f"{1 + len(shape)}d")
def test_uncompressed_chunk_is_a_plain_array(tmp_path: Path, row_shape: tuple[int, ...]) -> None:
    """Without compression a chunk is its rows in C order and a crc32c, so it can be mapped."""
    array = make_array(tmp_path, row_shape=row_shape)
    values = normal(ROWS, row_shape)
    publish_all(array, values)
    for unit in range(array.units):
        path = array.chunk_path(unit)
        start, stop = unit * UNIT_ROWS, min((unit + 1) * UNIT_ROWS, ROWS)
        mapped = np.memmap(path, np.float16, "r", shape=(UNIT_ROWS, *row_shape))
        np.testing.assert_array_equal(mapped[: stop - start], array.read(start, stop))
        assert np.isnan(mapped[stop - start :]).all()
        content = path.read_bytes()
        assert len(content) == mapped.nbytes + 4
        assert int.from_bytes(content[-4:], "little") == google_crc32c.value(content[:-4])


@pytest.mark.parametrize("codec", CODECS)
def test_plain_zarr_reads_the_same_numbers(tmp_path: Path, codec: Codec) -> None:
    """The features are an ordinary zarr v3 group: `zarr.open` needs nothing of ours."""
    array = make_array(tmp_path, codec=codec)
    publish_all(array, normal(ROWS))
    group = zarr.open(tmp_path / "features.zarr", mode="r")
    assert isinstance(group, zarr.Group)
    plain = group["vit/gradients/kl"]
    assert isinstance(plain, zarr.Array)
    assert plain.metadata.zarr_format == 3
    assert plain.shards is None
    np.testing.assert_array_equal(plain[:], array.read(0, ROWS))


def test_unwritten_rows_read_as_nan(tmp_path: Path) -> None:
    """Rows that no unit has covered yet are NaN, never zeros that look like features."""
    array = make_array(tmp_path)
    assert np.isnan(array.read(0, ROWS)).all()
    array.publish(1, normal(8), ids="", failed=0)
    assert np.isnan(array.read(0, 8)).all()
    assert not np.isnan(array.read(8, 16)).any()
    assert np.isnan(array.read(16, ROWS)).all()


@pytest.mark.parametrize("codec", CODECS)
def test_a_unit_of_zeros_is_written(tmp_path: Path, codec: Codec) -> None:
    """A chunk of zeros is stored and committed like any other."""
    array = reopened(make_array(tmp_path, codec=codec), tmp_path)
    commit = array.publish(0, np.zeros((8, 3), np.float16), ids="", failed=0)
    assert commit.zero_rows == 8
    assert reopened(array, tmp_path).commit(0) == commit
    assert (array.read(0, 8) == 0).all()


@pytest.mark.parametrize("codec", CODECS)
def test_a_unit_of_nans_is_written(tmp_path: Path, codec: Codec) -> None:
    """A unit whose images all failed equals the fill value, and is committed all the same."""
    array = make_array(tmp_path, codec=codec)
    commit = array.publish(0, np.full((8, 3), np.nan, np.float16), ids="", failed=8)
    assert (commit.nan_rows, commit.failed) == (8, 8)
    assert reopened(array, tmp_path).commit(0) == commit


# --- the record


def test_record_describes_the_unit(tmp_path: Path) -> None:
    """A record counts rows, bytes, and rows with NaN, with infinities, and of zeros only."""
    array = make_array(tmp_path, row_shape=(2, 3))
    block = normal(8, (2, 3))
    block[1, 0, 2] = np.nan
    block[2] = np.nan
    block[3, 1, 1] = -np.inf
    block[4] = np.inf
    block[5, 0, 0], block[5, 1, 2] = np.nan, np.inf
    block[6] = 0
    block[7, 0] = 0
    commit = array.publish(1, block, ids="digest of ids", failed=1)
    assert (commit.unit, commit.rows, commit.failed) == (1, 8, 1)
    assert (commit.nan_rows, commit.inf_rows, commit.zero_rows) == (3, 3, 1)
    assert (commit.ids, commit.fingerprint, array.fingerprint) == ("digest of ids", "f1", "f1")
    assert commit.bytes == array.chunk_path(1).stat().st_size
    assert parse_commit(record_path(tmp_path, array, 1).read_bytes()) == commit
    assert reopened(array, tmp_path).commits() == {1: commit}


def test_records_of_scalar_rows(tmp_path: Path) -> None:
    """A one-dimensional array, such as a gradient's norms, is counted value by value."""
    array = make_array(tmp_path, row_shape=(), dtype="float32", rows=4)
    commit = array.publish(0, np.array([1, np.nan, np.inf, 0], np.float32), ids="", failed=1)
    assert (commit.nan_rows, commit.inf_rows, commit.zero_rows) == (1, 1, 1)


def test_checksum_follows_the_values_alone(tmp_path: Path) -> None:
    """Equal rows have equal checksums in every lossless codec; one changed value changes it."""
    block = normal(8)
    plain, packed = (make_array(tmp_path, codec=codec, name=codec) for codec in LOSSLESS)
    before = plain.publish(0, block, ids="", failed=0)
    assert packed.publish(0, block, ids="", failed=0).checksum == before.checksum
    block[7, 2] = -block[7, 2]
    assert plain.publish(0, block, ids="", failed=0).checksum != before.checksum


def test_data_reaches_the_disk_before_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk and record are each flushed before their rename, and their folder after it."""
    array = make_array(tmp_path)
    events = watch_disk(tmp_path, monkeypatch)
    array.publish(1, normal(8), ids="", failed=0)
    for path in (record_path(tmp_path, array, 1), array.chunk_path(1)):
        shown = events.index(("rename", path))
        flushed = [other for kind, other in events[:shown] if kind == "fsync"]
        assert flushed[-1].name.startswith(f".{path.name}.")
        assert flushed[-1].name.endswith(".partial")
        assert ("fsync", path.parent) in events[shown:]
        events = events[:shown]  # the chunk was there before the record began


def test_new_folder_of_a_chunk_is_flushed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that a chunk made for itself is flushed where it is named, or it may vanish."""
    array = make_array(tmp_path)
    events = watch_disk(tmp_path, monkeypatch)
    array.publish(1, normal(8), ids="", failed=0)
    assert ("fsync", array.chunk_path(1).parent.parent) in events


@pytest.mark.parametrize(
    "change",
    [
        lambda root: make_array(root, name="vit/new"),
        lambda root: UnitArray(LocalBackend(root), "vit/old").grow(99),
    ],
    ids=["create", "grow"],
)
def test_metadata_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    """An array's shape and type are flushed when they are written: every unit depends on them."""
    make_array(tmp_path, name="vit/old")
    events = watch_disk(tmp_path, monkeypatch)
    change(tmp_path)
    flushed = [path.name for kind, path in events if kind == "fsync"]
    assert any("zarr.json" in name for name in flushed)


def watch_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Return a list that fills with the fsyncs and renames below a folder, as they happen."""
    events: list[tuple[str, Path]] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))

    def watched_rename(source: Path, target: Path) -> None:
        rename(source, target)
        events.append(("rename", Path(target)))

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    return events


# --- what is not committed


def test_a_chunk_without_a_record_is_not_committed(tmp_path: Path) -> None:
    """Presence of a chunk proves nothing."""
    array = make_array(tmp_path)
    write_chunk(array, 0, normal(8))
    assert array.chunk_path(0).is_file()
    assert array.commit(0) is None
    assert array.commits() == {}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("left", [None, 0, 1, 30], ids=["missing", "empty", "one byte", "half"])
def test_a_record_without_its_whole_chunk_is_not_committed(
    tmp_path: Path, codec: Codec, left: int | None
) -> None:
    """A chunk that is missing, empty or cut short is not done, whatever its record says."""
    array = make_array(tmp_path, codec=codec)
    publish_all(array, normal(ROWS))
    commit = array.commits()[1]
    chunk = array.chunk_path(1)
    assert commit.bytes > 30
    if left is None:
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:left])
    assert array.commit(1) is None
    assert sorted(array.commits()) == [0, 2]
    assert not array.holds(commit)


def test_an_empty_chunk_is_not_committed_even_by_a_record_of_zero_bytes(tmp_path: Path) -> None:
    """A power cut that empties both size and chunk still leaves the unit undone."""
    array = make_array(tmp_path)
    array.publish(0, normal(8), ids="", failed=0)
    array.chunk_path(0).write_bytes(b"")
    rewrite_record(tmp_path, array, 0, bytes=0)
    assert array.commit(0) is None


def test_a_record_of_another_setup_is_not_committed(tmp_path: Path) -> None:
    """A unit counts only for the fingerprint that it was written under."""
    array = make_array(tmp_path)
    array.publish(0, normal(8), ids="", failed=0)
    rewrite_record(tmp_path, array, 0, fingerprint="f2")
    assert array.commit(0) is None
    assert array.commits() == {}


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"null", b"[]", b"{}", b'"text"', b"\xff\xfe", b"\0" * 64],
    ids=["empty", "cut", "null", "list", "no fields", "text", "not UTF-8", "NULs"],
)
def test_a_damaged_record_is_not_committed(tmp_path: Path, damaged: bytes) -> None:
    """A record that is no record leaves its unit undone, and the others done."""
    array = make_array(tmp_path)
    publish_all(array, normal(ROWS))
    record_path(tmp_path, array, 0).write_bytes(damaged)
    assert array.commit(0) is None
    assert sorted(array.commits()) == [1, 2]


@settings(SHARED_TMP_PATH)
@given(cut=st.integers(0, 10_000))
def test_a_record_cut_anywhere_is_not_committed(tmp_path: Path, cut: int) -> None:
    """No prefix of a record passes for a record."""
    array = _published_once(tmp_path)
    path = record_path(tmp_path, array, 0)
    content = path.read_bytes()
    path.write_bytes(content[: cut % len(content)])
    assert array.commit(0) is None
    path.write_bytes(content)
    assert array.commit(0) is not None


@pytest.mark.parametrize(
    "changes",
    [{"unit": 1}, {"rows": 9}, {"rows": -1}, {"rows": "8", "bytes": 1}, {"rows": 8.5, "bytes": 1}],
    ids=str,
)
def test_a_record_that_cannot_be_right_is_not_committed(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A record naming another unit, or rows that the unit does not have, leaves it undone."""
    array = make_array(tmp_path)
    publish_all(array, normal(ROWS))
    rewrite_record(tmp_path, array, 0, **changes)
    assert array.commit(0) is None


def test_a_stray_file_among_the_records_is_ignored(tmp_path: Path) -> None:
    """A file that is no record, such as a note or an editor's copy, does not stop a run."""
    array = make_array(tmp_path)
    array.publish(0, normal(8), ids="", failed=0)
    record_path(tmp_path, array, 0).with_name("notes.json").write_text("{}")
    assert sorted(array.commits()) == [0]


def test_a_record_of_a_newer_minor_version_is_committed(tmp_path: Path) -> None:
    """A reader opens any minor version, so a field that it does not know undoes nothing."""
    array = make_array(tmp_path)
    commit = array.publish(0, normal(8), ids="", failed=0)
    rewrite_record(tmp_path, array, 0, seconds=12.5)
    assert array.commit(0) == commit


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_passes_the_quick_check_only(tmp_path: Path, codec: Codec) -> None:
    """`commit` compares sizes and misses a flipped bit; `holds` reads the unit and sees it."""
    array = make_array(tmp_path, codec=codec)
    commit = array.publish(0, normal(8), ids="", failed=0)
    chunk = array.chunk_path(0)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 4
    chunk.write_bytes(content)
    assert array.commit(0) == commit
    assert not array.holds(commit)


@pytest.mark.parametrize("codec", CODECS)
@settings(SHARED_TMP_PATH)
@given(position=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_holds_sees_any_changed_byte(
    tmp_path: Path, codec: Codec, position: int, mask: int
) -> None:
    """Wherever a stored byte changes, in values, headers or the crc itself, the unit fails."""
    array = _published_once(tmp_path, codec)
    commit = array.commit(0)
    assert commit is not None
    chunk = array.chunk_path(0)
    content = chunk.read_bytes()
    damaged = bytearray(content)
    damaged[position % len(content)] ^= mask
    chunk.write_bytes(damaged)
    assert not array.holds(commit)
    chunk.write_bytes(content)
    assert array.holds(commit)


def _published_once(root: Path, codec: Codec = "none") -> UnitArray:
    """Return an array with unit 0 written; hypothesis's examples share it."""
    name = f"vit/{codec}"
    if (root / "features.zarr" / name / "zarr.json").exists():
        return UnitArray(LocalBackend(root), name)
    array = make_array(root, codec=codec, name=name, row_shape=WIDE)
    array.publish(0, normal(8, WIDE), ids="", failed=0)
    return array


def test_a_chunk_of_other_values_fails_holds(tmp_path: Path) -> None:
    """A valid chunk that is not the recorded one, as after a bad copy, does not hold."""
    array = make_array(tmp_path)
    commit = array.publish(0, normal(8), ids="", failed=0)
    write_chunk(array, 0, -normal(8))
    assert array.commit(0) == commit  # same size: the quick check is not meant to see it
    assert not array.holds(commit)


# --- growing


@pytest.mark.parametrize("codec", CODECS)
def test_a_partly_filled_unit_is_completed_after_growing(tmp_path: Path, codec: Codec) -> None:
    """The last unit is rewritten with old and new rows; the old rows keep every bit."""
    array = make_array(tmp_path, codec=codec)
    publish_all(array, normal(ROWS))
    old = array.read(0, ROWS)
    array.grow(27)
    assert (array.rows, array.units) == (27, 4)
    assert sorted(array.commits()) == [0, 1, 2]
    new = normal(7)
    array.publish(2, np.concatenate([array.read(16, ROWS), new[:4]]), ids="", failed=0)
    array.publish(3, new[4:], ids="", failed=0)
    again = reopened(array, tmp_path)
    np.testing.assert_array_equal(again.read(0, ROWS), old)
    if codec != "bitround":
        np.testing.assert_array_equal(again.read(ROWS, 27), new)
    assert [commit.rows for commit in again.commits().values()] == [8, 8, 8, 3]
    assert all(again.holds(commit) for commit in again.commits().values())


@pytest.mark.parametrize("codec", CODECS)
def test_a_kill_between_the_steps_of_completing_keeps_the_old_rows(
    tmp_path: Path, codec: Codec
) -> None:
    """With the longer chunk on disk and the old record, exactly the old rows are committed."""
    array = make_array(tmp_path, codec=codec, row_shape=WIDE)
    publish_all(array, normal(ROWS, WIDE))
    before = array.commit(2)
    assert before is not None
    array.grow(24)
    longer = np.concatenate([array.read(16, ROWS), normal(4, WIDE)])
    write_chunk(array, 2, longer)  # the kill comes here
    again = reopened(array, tmp_path)
    assert again.commit(2) == before
    assert again.commits()[2].rows == 4
    assert again.holds(before)
    if codec == "none":
        assert again.chunk_path(2).stat().st_size == before.bytes
    else:
        assert again.chunk_path(2).stat().st_size != before.bytes
    completed = again.publish(2, again.read(16, 24), ids="", failed=0)
    assert reopened(array, tmp_path).commit(2) == completed


@pytest.mark.parametrize("codec", CODECS)
def test_a_kill_between_the_steps_with_other_old_rows_undoes_the_unit(
    tmp_path: Path, codec: Codec
) -> None:
    """Where the longer chunk does not hold the old rows, a full read does not vouch for it."""
    array = make_array(tmp_path, codec=codec, row_shape=WIDE)
    publish_all(array, normal(ROWS, WIDE))
    before = array.commit(2)
    assert before is not None
    array.grow(24)
    write_chunk(array, 2, normal(8, WIDE))
    again = reopened(array, tmp_path)
    assert not again.holds(before)
    if codec != "none":  # the size differs, so the quick check has looked
        assert again.commit(2) is None


def test_growing_keeps_committed_units(tmp_path: Path) -> None:
    """A longer array has the old rows, and NaN after them."""
    array = make_array(tmp_path)
    publish_all(array, normal(ROWS))
    commits = array.commits()
    array.grow(1000)
    assert array.rows == reopened(array, tmp_path).rows == 1000
    assert reopened(array, tmp_path).commits() == commits
    np.testing.assert_array_equal(array.read(0, ROWS), normal(ROWS))
    assert np.isnan(array.read(ROWS, 1000)).all()


@pytest.mark.parametrize("rows", [0, 1, ROWS - 1, ROWS])
def test_growing_never_shortens(tmp_path: Path, rows: int) -> None:
    """A smaller number, as of a run with --limit, leaves every row in place."""
    array = make_array(tmp_path)
    publish_all(array, normal(ROWS))
    array.grow(rows)
    assert array.rows == reopened(array, tmp_path).rows == ROWS
    np.testing.assert_array_equal(array.read(0, ROWS), normal(ROWS))


# --- writing over what is there


def test_publishing_again_replaces_the_unit(tmp_path: Path) -> None:
    """A unit that is computed twice, as after a lost record, is the last one written."""
    array = make_array(tmp_path)
    array.publish(0, normal(8), ids="first", failed=0)
    second = array.publish(0, -normal(8), ids="second", failed=0)
    assert array.commits() == {0: second}
    np.testing.assert_array_equal(array.read(0, 8), -normal(8))
    assert array.holds(second)


@pytest.mark.parametrize("damage", [b"", b"short"], ids=["empty", "torn"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_whole_unit_is_published_over_a_damaged_chunk(
    tmp_path: Path, codec: Codec, damage: bytes
) -> None:
    """What a power cut left is not merged with, only replaced: for full and for last units."""
    array = make_array(tmp_path, codec=codec)
    publish_all(array, normal(ROWS))
    for unit in (0, 2):
        array.chunk_path(unit).write_bytes(damage)
    again = reopened(array, tmp_path)
    assert sorted(again.commits()) == [1]
    publish_all(again, normal(ROWS))
    assert sorted(again.commits()) == [0, 1, 2]
    assert all(again.holds(commit) for commit in again.commits().values())


@pytest.mark.parametrize("damage", [b"", b"short"], ids=["empty", "torn"])
def test_a_shorter_unit_is_published_over_a_damaged_chunk(tmp_path: Path, damage: bytes) -> None:
    """A run with --limit, shorter than the array, also gets past what a power cut left."""
    array = make_array(tmp_path)
    array.publish(0, normal(8)[:5], ids="", failed=0)
    array.chunk_path(0).write_bytes(damage)
    assert array.commits() == {}
    commit = array.publish(0, normal(8)[:5], ids="", failed=0)
    assert array.commits() == {0: commit}


@pytest.mark.parametrize(
    ("unit", "shape"),
    [(0, (12, 3)), (2, (8, 3)), (3, (8, 3)), (0, (8, 1)), (0, (0, 3)), (-1, (8, 3))],
    ids=["into the next unit", "past the end", "after the end", "broadcast", "no rows", "negative"],
)
def test_a_block_that_is_not_the_unit_is_refused(
    tmp_path: Path, unit: int, shape: tuple[int, ...]
) -> None:
    """One writer, whole units: a block that spills over or is stretched commits nothing."""
    array = make_array(tmp_path)
    array.publish(1, normal(8), ids="", failed=0)
    with pytest.raises(ValueError, match=r"block|rows|shape|unit"):
        array.publish(unit, np.ones(shape, np.float16), ids="", failed=0)
    assert sorted(array.commits()) == [1]
    np.testing.assert_array_equal(array.read(8, 16), normal(8))


def test_commits_of_an_array_that_was_never_written(tmp_path: Path) -> None:
    """A new array has no commits, and asking for any unit's gives None."""
    array = make_array(tmp_path)
    assert array.commits() == {}
    assert array.commit(0) is None
    assert array.commit(10**9) is None


def test_commits_come_in_the_order_of_units(tmp_path: Path) -> None:
    """However the units were written, their records are listed by unit."""
    array = make_array(tmp_path, rows=100)
    for unit in (11, 2, 0, 10, 1):
        array.publish(unit, normal(8), ids="", failed=0)
    assert list(array.commits()) == [0, 1, 2, 10, 11]
    assert all(isinstance(commit, Commit) for commit in array.commits().values())


@pytest.mark.parametrize("change", ["longer", "shorter", "empty"])
def test_a_chunk_of_another_size_is_not_mapped(tmp_path: Path, change: str) -> None:
    """Rows of a file that has bytes to spare, or too few, would be somebody else's, or a crash."""
    array = make_array(tmp_path)
    values = normal(ROWS)
    publish_all(array, values)
    assert array.plain is not None
    rows = array.plain.map(array.chunk_path(1)).values
    np.testing.assert_array_equal(rows, values[8:16])
    path = array.chunk_path(1)
    data = path.read_bytes()
    path.write_bytes({"longer": data + b"\0", "shorter": data[:-1], "empty": b""}[change])
    with pytest.raises(ValueError, match=f"{path.stat().st_size} bytes, not {len(data)}"):
        array.plain.map(path)


def test_where_everything_of_an_array_is(tmp_path: Path) -> None:
    """Groups above it, its metadata, a chunk and a record a unit; nothing else."""
    array = make_array(tmp_path)
    publish_all(array, normal(ROWS))
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    place = "vit/gradients/kl"
    assert {name for name in files if not name.startswith(".")} == {
        *(f"features.zarr/{group}zarr.json" for group in ("", "vit/", "vit/gradients/")),
        f"features.zarr/{place}/zarr.json",
        *(f"features.zarr/{place}/c/{unit}/0" for unit in range(3)),
        *(f"commits/{place}/{unit:08d}.json" for unit in range(3)),
    }
    for group in ("", "vit/", "vit/gradients/"):
        assert json.loads((tmp_path / f"features.zarr/{group}zarr.json").read_bytes()) == {
            "attributes": {},
            "zarr_format": 3,
            "node_type": "group",
        }
    assert array.chunk_path(2) == tmp_path / f"features.zarr/{place}/c/2/0"
    assert array.chunk_size(2) == array.chunk_path(2).stat().st_size
    assert array_names(Folder(LocalBackend(tmp_path)).at("features.zarr")) == [place]


def test_what_an_array_says_of_itself(tmp_path: Path) -> None:
    array = make_array(tmp_path, row_shape=(2, 3), dtype="float32", codec="zstd")
    assert array.feature_set == "vit"
    assert array.feature == Feature("gradients/kl", (2, 3), "float32")
    assert (array.codec, array.fingerprint) == ("zstd", "f1")
    assert (array.rows, array.unit_rows, array.units) == (20, 8, 3)
    assert [array.rows_of(unit) for unit in range(3)] == [8, 8, 4]
    assert array.plain is None
    plain = make_array(tmp_path, name="vit/embeddings")
    assert plain.plain is not None
    assert array_names(Folder(LocalBackend(tmp_path))) == [
        "features.zarr/vit/embeddings",
        "features.zarr/vit/gradients/kl",
    ]


def test_a_second_array_leaves_its_groups_as_they_are(tmp_path: Path) -> None:
    make_array(tmp_path)
    group = tmp_path / "features.zarr/vit/zarr.json"
    group.write_text(
        json.dumps({"attributes": {"mine": 1}, "zarr_format": 3, "node_type": "group"})
    )
    before = group.read_bytes()
    make_array(tmp_path, name="vit/embeddings")
    assert group.read_bytes() == before


def test_a_record_is_json_with_sorted_keys(tmp_path: Path) -> None:
    array = make_array(tmp_path)
    commit = array.publish(1, normal(8), ids="i", failed=2)
    text = record_path(tmp_path, array, 1).read_text()
    assert text == json.dumps(asdict(commit), sort_keys=True)
    assert parse_commit(text.encode()) == commit
    assert (commit.unit, commit.rows, commit.bytes) == (1, 8, array.chunk_size(1))
    assert (commit.ids, commit.failed, commit.fingerprint) == ("i", 2, "f1")


def test_a_unit_may_be_of_one_row(tmp_path: Path) -> None:
    array = make_array(tmp_path)
    commit = array.publish(0, normal(1), ids="", failed=0)
    assert commit.rows == 1
    assert array.commits() == {0: commit}
    np.testing.assert_array_equal(array.read(0, 1), normal(1))


def test_a_forgotten_unit_is_written_anew(tmp_path: Path) -> None:
    array = make_array(tmp_path)
    publish_all(array, normal(ROWS))
    array.forget(1)
    assert list(array.commits()) == [0, 2]
    assert array.commit(1) is None
    assert not record_path(tmp_path, array, 1).exists()
    assert array.chunk_size(1) > 0


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("00000003.json", 3),
        ("123456789.json", 123456789),
        ("0000003.json", None),
        ("00000003.txt", None),
        ("00000003", None),
        ("json", None),
        ("0000000x.json", None),
        ("a.00000003.json", None),
    ],
)
def test_a_records_name_is_its_unit_in_eight_digits_or_more(name: str, unit: int | None) -> None:
    assert record_unit(name) == unit
    if unit is not None:
        assert record_name(unit) == name


@pytest.mark.parametrize(
    "metadata", [b"", b"[]", b"{}", b"3", b"[" * 100_000], ids=["empty", "list", "no", "3", "deep"]
)
def test_metadata_that_are_none_are_damage(tmp_path: Path, metadata: bytes) -> None:
    """Where arrays are listed, and where one is opened."""
    array = make_array(tmp_path)
    path = tmp_path / "features.zarr/vit/gradients/kl/zarr.json"
    path.write_bytes(metadata)
    with pytest.raises(StoreError, match="zarr metadata are damaged") as caught:
        array_names(Folder(LocalBackend(tmp_path)))
    assert caught.value.where == str(path)
    with pytest.raises(StoreError, match="an array's metadata are damaged") as caught:
        reopened(array, tmp_path)
    assert caught.value.where == str(path)
    assert f"fungi verify {tmp_path} --repair" in str(caught.value.hint)


@pytest.mark.parametrize("lost", ["fingerprint", "codec"])
def test_an_array_of_another_program_is_not_ours(tmp_path: Path, lost: str) -> None:
    array = make_array(tmp_path)
    path = tmp_path / "features.zarr/vit/gradients/kl/zarr.json"
    document = json.loads(path.read_bytes())
    del document["attributes"][lost]
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="metadata are damaged") as caught:
        reopened(array, tmp_path)
    assert "another program" in str(caught.value.found)
    document["attributes"] |= {lost: "none", "more": 1}
    path.write_text(json.dumps(document))
    assert reopened(array, tmp_path).rows == ROWS
