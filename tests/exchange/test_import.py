"""Import: the same bits, ids, labels and splits as in the file, resumable, and clear when not."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import clustered, make_store
from fungistore.errors import FungiError, MismatchError, StoppedError, UsageError
from fungistore.exchange.export import export_features
from fungistore.exchange.import_ import import_features
from fungistore.exchange.npy import sidecar_of
from fungistore.exchange.options import ExportOptions, ImportOptions
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.store.store import Store

SUFFIXES = [".npy", ".parquet", ".h5"]
ROWS = 50


def vectors(rows: int = ROWS, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def read(store: Path, feature_set: str = "imported", name: str = "embeddings") -> np.ndarray:
    array = Store.open(store).arrays(feature_set)[name]
    return array.read(0, array.rows)


def table_of(store: Path) -> list[tuple[Any, ...]]:
    samples = Store.open(store).samples
    rows = samples.rows(0, len(samples))
    return [(row["id"], row["label"], row["split"]) for row in rows]


def write(path: Path, matrix: np.ndarray, ids: list[Any], **columns: list[Any]) -> Path:
    """Write a file of one of the formats, as other programs would."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["embeddings"] = matrix
            file["ids"] = ids
            for name, values in columns.items():
                file[name] = values
        return path
    table = pa.table({"id": ids, **columns})
    if path.suffix == ".npy":
        np.save(path, matrix)
        pq.write_table(table, sidecar_of(path))
    else:
        table = table.append_column("embeddings", pa.array(list(matrix)))
        pq.write_table(table, path, row_group_size=13)
    return path


def names(rows: int = ROWS) -> list[str]:
    return [f"im {row:03d}" for row in range(rows)]


def tree(root: Path) -> dict[str, bytes]:
    """Return a store's files; locks, the store's random id and its checksum apart."""
    files = [f.relative_to(root) for f in root.rglob("*") if f.is_file()]
    found = {str(f): (root / f).read_bytes() for f in files if f.parts[0] != ".locks"}
    document = json.loads(found.pop("store.json"))
    del document["id"], document["checksum"]
    return found | {"store.json": json.dumps(document).encode()}


@pytest.fixture
def exported(tmp_path: Path) -> Store:
    """A store with labels, a class that no row has, splits, and rows without either."""
    matrix, labels = clustered(ROWS, 3, 6)
    labelled: list[str | None] = [*labels]
    labelled[3] = None
    splits = ["train" if row % 3 else "test" for row in range(ROWS)]
    splits[5] = None
    store = make_store(tmp_path / "old.fungi", {"embeddings": matrix}, labelled, splits)
    manifest = json.loads((store.root / "store.json").read_bytes())
    manifest["labels"].insert(0, "never seen")
    (store.root / "store.json").write_text(json.dumps(manifest))
    return Store.open(store.root)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_round_trip_gives_the_same_bits_and_the_same_rows(
    exported: Store, tmp_path: Path, suffix: str
) -> None:
    """Export and import: vectors, ids, label numbers and names, splits and the set's name."""
    path = tmp_path / f"train{suffix}"  # a name that must not give rows without a split one
    export_features(exported.root, path, ExportOptions(raw=True))
    done = import_features(path, tmp_path / "new.fungi")
    assert (done.feature_set, done.feature, done.matched) == ("set", "embeddings", ROWS)
    np.testing.assert_array_equal(
        read(tmp_path / "new.fungi", "set"), read(exported.root, "set"), strict=True
    )
    assert table_of(tmp_path / "new.fungi") == table_of(exported.root)
    assert Store.open(tmp_path / "new.fungi").manifest.labels == exported.manifest.labels
    old, new = open_features(exported), open_features(Store.open(tmp_path / "new.fungi"))
    np.testing.assert_array_equal(new.load()[1], old.load()[1])
    assert new.coverage().usable.all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_float16_round_trip_gives_the_same_bits(tmp_path: Path, suffix: str) -> None:
    """A file of float16 becomes an array of float16, without a flag."""
    matrix = vectors().astype(np.float16)
    store = make_store(tmp_path / "old.fungi", {"embeddings": matrix}, ["a"] * ROWS)
    export_features(store.root, tmp_path / f"f{suffix}", ExportOptions(raw=True, dtype="float16"))
    done = import_features(tmp_path / f"f{suffix}", tmp_path / "new.fungi")
    assert done.storage_dtype == "float16"
    np.testing.assert_array_equal(read(tmp_path / "new.fungi", "set"), matrix, strict=True)


def test_files_of_the_reference_code_need_no_flags(tmp_path: Path) -> None:
    """`embeddings` and `targets` in train.h5 and test.h5: labels by number, splits by name."""
    for name, rows, seed in (("train", 30, 0), ("test", 20, 1)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["embeddings"] = vectors(rows, seed=seed)
            file["targets"] = (np.arange(rows) % 12).astype(np.uint32)
        with h5py.File(tmp_path / f"kl-{name}.h5", "w") as file:
            file["attn_proj"] = vectors(rows, 4, seed=seed + 2)
    store = tmp_path / "s.fungi"
    import_features([tmp_path / "train.h5", tmp_path / "test.h5"], store)
    np.testing.assert_array_equal(read(store), np.vstack([vectors(30), vectors(20, seed=1)]))
    opened = Store.open(store)
    assert opened.manifest.labels == tuple(map(str, range(12)))
    assert opened.samples.labels().tolist() == [*np.arange(30) % 12, *np.arange(20) % 12]
    assert {name: len(rows) for name, rows in opened.samples.splits().items()} == {
        "test": 20,
        "train": 30,
    }
    # gradients of the same images, the files in another order
    kl = [tmp_path / "kl-test.h5", tmp_path / "kl-train.h5"]
    done = import_features(kl, store, ImportOptions(feature="kl"))
    assert done.matched == ROWS
    matrix = open_features(Store.open(store))
    assert matrix.features == ("embeddings", "kl")
    np.testing.assert_array_equal(
        read(store, name="gradients/kl"), np.vstack([vectors(30, 4, 2), vectors(20, 4, 3)])
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("unit_rows", [4, 64])
def test_rows_are_matched_by_id_in_any_order(tmp_path: Path, suffix: str, unit_rows: int) -> None:
    """A shuffled file with some rows missing lands in the store's rows; the others are NaN."""
    store, matrix = tmp_path / "s.fungi", vectors(200, 3)
    ids = names(200)
    import_features(write(tmp_path / "a.npy", vectors(200), ids), store)
    order = np.random.default_rng(5).permutation(200)[:170]
    path = write(tmp_path / f"b{suffix}", matrix[order], [ids[row] for row in order])
    options = ImportOptions(feature_set="other", unit_rows=unit_rows)
    done = import_features(path, store, options)
    expected = np.full_like(matrix, np.nan)
    expected[order] = matrix[order]
    np.testing.assert_array_equal(read(store, "other"), expected)
    assert (done.matched, done.unknown, done.nan_rows) == (170, 0, 0)
    usable = open_features(Store.open(store), feature_set="other").coverage().usable
    assert np.flatnonzero(usable).tolist() == sorted(order.tolist())
    assert not list(store.rglob("*.partial"))


def test_a_subset_leaves_units_without_a_row_uncommitted(tmp_path: Path) -> None:
    """Samples that the file does not have are missing, not unreadable."""
    store = tmp_path / "s.fungi"
    import_features(write(tmp_path / "a.npy", vectors(), names()), store)
    path = write(tmp_path / "b.npy", vectors(20), names()[:20])
    import_features(path, store, ImportOptions(feature_set="other", unit_rows=16))
    coverage = open_features(Store.open(store), feature_set="other").coverage()
    assert (coverage.missing, coverage.unreadable) == (30, 0)


def test_unknown_ids_are_refused_or_skipped(tmp_path: Path) -> None:
    """Rows that the store does not know are named; --unknown skip leaves them out."""
    store = tmp_path / "s.fungi"
    import_features(write(tmp_path / "a.npy", vectors(20), names(20)), store)
    before = tree(store)
    path = write(tmp_path / "b.npy", vectors(), names())
    with pytest.raises(UsageError, match=r"(?s)30 of 50 rows.*im 020.*--unknown skip"):
        import_features(path, store, ImportOptions(feature_set="other"))
    assert tree(store) == before
    done = import_features(path, store, ImportOptions(feature_set="other", unknown="skip"))
    assert (done.matched, done.unknown) == (20, 30)
    np.testing.assert_array_equal(read(store, "other"), vectors()[:20])
    other = write(tmp_path / "c.npy", vectors(3), ["x", "y", "z"])
    with pytest.raises(UsageError, match=r"(?s)3 of 3 rows.*--ids"):
        import_features(other, store, ImportOptions(feature_set="third", unknown="skip"))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_a_stopped_import_continues_to_the_same_bytes(
    tmp_path: Path, suffix: str, shuffled: bool
) -> None:
    """Stopped after each unit in turn, the store ends as the uninterrupted one, byte for byte."""
    ids = names()
    first = write(tmp_path / "a.npy", vectors(), ids)
    order = np.random.default_rng(1).permutation(ROWS) if shuffled else np.arange(ROWS)
    path = write(tmp_path / f"b{suffix}", vectors(dim=3)[order], [ids[row] for row in order])
    options = ImportOptions(feature_set="other", unit_rows=4)
    straight, halting = tmp_path / "one.fungi", tmp_path / "two.fungi"
    for store in (straight, halting):
        if shuffled:
            import_features(first, store)
    import_features(path, straight, options)

    def stopping_after(calls: int) -> Callable[[], bool]:
        counter = itertools.count()
        return lambda: next(counter) >= calls

    stops = 0
    while True:
        try:
            done = import_features(path, halting, options, context=Context(stop=stopping_after(3)))
            break
        except StoppedError:
            stops += 1
    assert stops >= 3
    assert done.units_done == 13
    assert tree(halting) == tree(straight)
    again = import_features(path, halting, options)
    assert (again.units_computed, again.matched) == (0, ROWS)


def test_a_kill_before_the_first_unit_continues(tmp_path: Path) -> None:
    """Samples but no array: the same command goes on with the samples that are there."""
    path = write(tmp_path / "a.npy", vectors(), names())
    store, other = tmp_path / "s.fungi", tmp_path / "t.fungi"
    with pytest.raises(StoppedError):
        import_features(path, store, context=Context(stop=lambda: True))
    import_features(path, store)
    import_features(path, other)
    assert tree(store) == tree(other)


def test_other_content_is_refused_with_exit_4(tmp_path: Path) -> None:
    """Other vectors, other ids, another type or unit under the same name are a mismatch."""
    store = tmp_path / "s.fungi"
    options = ImportOptions(unit_rows=16)
    import_features(write(tmp_path / "a.npy", vectors(), names()), store, options)
    before = tree(store)
    cases: list[tuple[Path, ImportOptions, str]] = [
        (write(tmp_path / "b.npy", vectors(seed=9), names()), options, "content"),
        (write(tmp_path / "c.npy", vectors(), names()[::-1]), options, "ids"),
        (tmp_path / "a.npy", ImportOptions(storage_dtype="float16"), "vectors.dtype"),
        (tmp_path / "a.npy", ImportOptions(unit_rows=32), "layout.unit_rows"),
    ]
    for path, changed, name in cases:
        with pytest.raises(MismatchError, match=name) as caught:
            import_features(path, store, changed)
        assert caught.value.exit_code == 4
    assert tree(store) == before
    done = import_features(tmp_path / "b.npy", store, options, restart=True)
    assert done.units_computed == 4
    np.testing.assert_array_equal(read(store), vectors(seed=9))


def test_features_join_an_extracted_set(tmp_path: Path) -> None:
    """kl from a file goes beside embeddings that another stage made, with the same units."""
    matrix = vectors()
    store = make_store(tmp_path / "s.fungi", {"embeddings": matrix}, ["a"] * ROWS, unit_rows=16)
    ids = [f"{row:06d}.jpg" for row in range(ROWS)]
    path = write(tmp_path / "kl.npy", vectors(dim=3), ids)
    import_features(path, store.root, ImportOptions(feature_set="set", feature="kl"))
    joined = open_features(Store.open(store.root))
    assert joined.features == ("embeddings", "kl")
    assert joined.load()[1].shape == (ROWS, 9)
    with pytest.raises(MismatchError):
        import_features(path, store.root, ImportOptions(feature_set="set", feature="embeddings"))


# --- tables and columns


def test_a_csv_names_the_rows_of_a_matrix(tmp_path: Path) -> None:
    """--table: paths become uris below the table's folder, and ids where there is no id."""
    np.save(tmp_path / "f.npy", vectors(3))
    (tmp_path / "a.jpg").write_bytes(b"12345")
    table = tmp_path / "t.csv"
    table.write_text("path,breed,fold\na.jpg,007,valid\nb.jpg,08,train\nsub/c.jpg,,\n")
    options = ImportOptions(table=table, labels="breed", splits="fold")
    import_features(tmp_path / "f.npy", tmp_path / "s.fungi", options)
    store = Store.open(tmp_path / "s.fungi")
    rows = store.samples.rows(0, 3)
    assert [row["id"] for row in rows] == ["a.jpg", "b.jpg", "sub/c.jpg"]
    assert [row["split"] for row in rows] == ["val", "train", None]
    assert [row["bytes"] for row in rows] == [5, None, None]
    assert rows[0]["root"] == str(tmp_path)
    assert store.manifest.labels == ("007", "08")


def test_a_list_of_ids_names_the_rows(tmp_path: Path) -> None:
    """--table ids.txt: one id a line."""
    np.save(tmp_path / "f.npy", vectors(3))
    (tmp_path / "ids.txt").write_text("x\ny y\nz\n")
    options = ImportOptions(table=tmp_path / "ids.txt")
    import_features(tmp_path / "f.npy", tmp_path / "s.fungi", options)
    assert [row[0] for row in table_of(tmp_path / "s.fungi")] == ["x", "y y", "z"]


def test_many_numeric_columns_are_a_matrix(tmp_path: Path) -> None:
    """A data frame's columns: all of floats, or those that a pattern names."""
    matrix = vectors(dim=3).astype(np.float64)
    columns = {f"f{i}": matrix[:, i] for i in range(3)}
    table = pa.table({"name": names(), "price": np.zeros(ROWS), **columns, "age": [1] * ROWS})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=7)
    done = import_features(
        tmp_path / "f.parquet", tmp_path / "s.fungi", ImportOptions(key="f*", ids="name")
    )
    assert (done.dim, done.storage_dtype) == (3, "float32")
    np.testing.assert_array_equal(read(tmp_path / "s.fungi"), matrix.astype(np.float32))
    wide = import_features(tmp_path / "f.parquet", tmp_path / "t.fungi", ImportOptions(ids="name"))
    assert wide.dim == 4


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_any_list_column_is_a_matrix(tmp_path: Path, kind: str) -> None:
    """Lists of any Arrow kind; a row without a vector is NaN."""
    matrix = vectors(dim=3)
    rows: list[Any] = [*matrix.tolist()]
    rows[4] = None
    types = {
        "list": pa.list_(pa.float32()),
        "large_list": pa.large_list(pa.float32()),
        "fixed": pa.list_(pa.float32(), 3),
    }
    table = pa.table({"id": names(), "anything": pa.array(rows, types[kind])})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=20)
    done = import_features(tmp_path / "f.parquet", tmp_path / "s.fungi", ImportOptions(unit_rows=8))
    assert done.nan_rows == 1
    matrix[4] = np.nan
    np.testing.assert_array_equal(read(tmp_path / "s.fungi"), matrix)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_any_float_matrix_of_numpy(tmp_path: Path, order: Any, dtype: str) -> None:
    """Fortran order, big-endian and double precision arrive as their values."""
    matrix = vectors().astype(dtype)
    np.save(tmp_path / "f.npy", np.asarray(matrix, order=order))
    done = import_features(tmp_path / "f.npy", tmp_path / "s.fungi", ImportOptions(unit_rows=8))
    assert done.storage_dtype == ("float16" if dtype == "<f2" else "float32")
    np.testing.assert_array_equal(read(tmp_path / "s.fungi"), matrix.astype(done.storage_dtype))


def test_nan_and_infinite_rows_are_kept_and_counted(tmp_path: Path) -> None:
    """They are reported, and the commands that read features leave them out."""
    matrix = vectors()
    matrix[3, 1], matrix[8] = np.nan, np.nan
    matrix[9, 0] = np.inf
    done = import_features(write(tmp_path / "f.npy", matrix, names()), tmp_path / "s.fungi")
    assert (done.nan_rows, done.inf_rows) == (2, 1)
    np.testing.assert_array_equal(read(tmp_path / "s.fungi"), matrix)
    usable = open_features(Store.open(tmp_path / "s.fungi")).coverage().usable
    assert np.flatnonzero(~usable).tolist() == [3, 8, 9]


# --- what cannot be imported


def _object(path: Path) -> None:
    np.save(path, np.array([[1, "a"]], object), allow_pickle=True)


def _cut(path: Path) -> None:
    np.save(path, vectors())
    path.write_bytes(path.read_bytes()[:-9])


def _archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=vectors())


BAD_NPY: dict[str, tuple[Callable[[Path], Any], str]] = {
    "objects": (_object, "pickle"),
    "cut": (_cut, "ends before its matrix"),
    "archive": (_archive, "np.savez"),
    "text": (lambda path: path.write_text("hello"), "cannot be read as .npy"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as .npy"),
    "integers": (
        lambda path: np.save(path, np.zeros((3, 2), int)),
        r"(?s)no floating-point.*int64",
    ),
    "cube": (lambda path: np.save(path, np.zeros((3, 2, 2))), r"(?s)not a matrix.*\[3, 2, 2\]"),
    "no rows": (lambda path: np.save(path, np.zeros((0, 2))), "the array is empty"),
    "complex": (lambda path: np.save(path, np.zeros((3, 2), complex)), "no floating-point"),
    "missing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("case", BAD_NPY)
def test_a_bad_npy_is_refused_and_no_store_is_made(tmp_path: Path, case: str) -> None:
    """Every refusal says where and what was found; the store's place stays empty."""
    make, message = BAD_NPY[case]
    make(tmp_path / "f.npy")
    with pytest.raises(UsageError, match=message) as caught:
        import_features(tmp_path / "f.npy", tmp_path / "s.fungi")
    assert str(tmp_path / "f.npy") in str(caught.value)
    assert not (tmp_path / "s.fungi").exists()


def _ids_case(ids: list[Any]) -> Callable[[Path], tuple[Path, ImportOptions]]:
    def make(folder: Path) -> tuple[Path, ImportOptions]:
        np.save(folder / "f.npy", vectors(4))
        pq.write_table(pa.table({"id": ids}), folder / "t.parquet")
        return folder / "f.npy", ImportOptions(table=folder / "t.parquet")

    return make


def _parquet_case(
    columns: dict[str, Any], options: ImportOptions | None = None
) -> Callable[[Path], tuple[Path, ImportOptions]]:
    def make(folder: Path) -> tuple[Path, ImportOptions]:
        pq.write_table(pa.table(columns), folder / "f.parquet")
        return folder / "f.parquet", options or ImportOptions()

    return make


def _hdf5_case(
    sets: dict[str, Any], options: ImportOptions | None = None
) -> Callable[[Path], tuple[Path, ImportOptions]]:
    def make(folder: Path) -> tuple[Path, ImportOptions]:
        with h5py.File(folder / "f.h5", "w") as file:
            for name, values in sets.items():
                file[name] = values
        return folder / "f.h5", options or ImportOptions()

    return make


def _text(name: str, content: str = "x") -> Callable[[Path], tuple[Path, ImportOptions]]:
    def make(folder: Path) -> tuple[Path, ImportOptions]:
        (folder / name).write_text(content)
        return folder / name, ImportOptions()

    return make


TWO = {"a": vectors(3), "b": vectors(3)}
BAD_FILES: dict[str, tuple[Callable[[Path], tuple[Path, ImportOptions]], str]] = {
    "too few ids": (_ids_case(["a", "b", "c"]), r"(?s)number of ids.*4 rows.*3 rows.*--table"),
    "too many ids": (_ids_case(list("abcde")), r"(?s)number of ids.*5 rows or more"),
    "duplicate ids": (_ids_case(["a", "b", "a", "c"]), r"(?s)1 id occurs more.*'a'.*--ids"),
    "a missing id": (_ids_case(["a", None, "b", "c"]), r"(?s)a row has no id.*row 1"),
    "ids of floats": (_ids_case([0.5, 1, 2, 3]), r"(?s)ids is not text.*double.*--ids"),
    "unknown suffix": (_text("f.xyz"), r"(?s)format.*\.npy.*--format"),
    "not Parquet": (_text("f.parquet"), "cannot be read as Parquet"),
    "not HDF5": (_text("f.h5"), "cannot be read as HDF5"),
    "no vectors": (_parquet_case({"id": ["a"]}), r"(?s)cannot be chosen.*id \(string\)"),
    "two columns": (
        _parquet_case({name: list(values) for name, values in TWO.items()}),
        r"(?s)cannot be chosen.*--key, one of a, b",
    ),
    "no such column": (
        _parquet_case({"id": ["a"], "f": [1.0]}, ImportOptions(key="g*")),
        r"(?s)no vectors in column 'g\*'.*f \(double\)",
    ),
    "no such id column": (
        _parquet_case({"f": [1.0]}, ImportOptions(ids="name")),
        r"(?s)no column 'name'.*--ids.*one of f",
    ),
    "ragged": (
        _parquet_case({"v": [[1.0, 2.0], [1.0]]}),
        r"(?s)not all of the same width.*row 1.*2 values.*1 value\b",
    ),
    "lists of text": (_parquet_case({"v": [["a"]]}), "cannot be chosen"),
    "two data sets": (_hdf5_case(TWO), r"(?s)cannot be chosen.*one of a, b.*--key"),
    "no such key": (
        _hdf5_case(TWO, ImportOptions(key="c")),
        r"(?s)no data set 'c'.*a, b.*a \[3, 6\].*--key",
    ),
    "a key of integers": (
        _hdf5_case({"a": np.zeros((2, 2), int)}, ImportOptions(key="a")),
        r"(?s)no floating-point.*data set a.*int64",
    ),
    "fewer targets": (
        _hdf5_case({"embeddings": vectors(3), "targets": [1, 2]}),
        r"(?s)number of labels differs.*targets.*3.*2",
    ),
    "targets of several": (
        _hdf5_case({"embeddings": vectors(3), "targets": [0.5, 1, 2]}),
        r"(?s)labels is not text",
    ),
    "target without a name": (
        _hdf5_case({"embeddings": vectors(2), "targets": [0, 2], "label_names": ["a", "b"]}),
        r"(?s)no name.*0 to 1",
    ),
    "key of .npy": (
        lambda folder: (_ids_case(list("abcd"))(folder)[0], ImportOptions(key="x")),
        r"(?s)one array.*leave out --key",
    ),
    "columns without a table": (
        lambda folder: (_ids_case(list("abcd"))(folder)[0], ImportOptions(ids="x")),
        "no column 'x'",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_and_no_store_is_made(tmp_path: Path, case: str) -> None:
    """Every refusal says what was expected and found, and which flag helps."""
    make, message = BAD_FILES[case]
    path, options = make(tmp_path)
    with pytest.raises(UsageError, match=message):
        import_features(path, tmp_path / "s.fungi", options)
    assert not (tmp_path / "s.fungi" / "features.zarr").exists()


def test_values_too_large_for_float16_are_refused_at_once(tmp_path: Path) -> None:
    """The rows are counted before anything is written, and float32 is named."""
    matrix = vectors()
    matrix[[4, 40]] = 1e6
    path = write(tmp_path / "f.npy", matrix, names())
    with pytest.raises(UsageError, match=r"(?s)2 rows.*float16.*--storage-dtype float32"):
        import_features(path, tmp_path / "s.fungi", ImportOptions(storage_dtype="float16"))
    assert not (tmp_path / "s.fungi").exists()
    import_features(path, tmp_path / "s.fungi", ImportOptions(storage_dtype="float32"))
    np.testing.assert_array_equal(read(tmp_path / "s.fungi"), matrix)


def test_a_matrix_beside_another_ones_table_is_refused(exported: Store, tmp_path: Path) -> None:
    """The table of an exported .npy knows its matrix: a pair that was mixed up is noticed."""
    export_features(exported.root, tmp_path / "f.npy")
    np.save(tmp_path / "f.npy", vectors())
    with pytest.raises(UsageError, match=r"(?s)not the one that the table.*export both again"):
        import_features(tmp_path / "f.npy", tmp_path / "s.fungi")


def test_choices_are_checked() -> None:
    """Options refuse values that they do not know."""
    for values in (
        {"unit_rows": 3},
        {"storage_dtype": "int8"},
        {"unknown": "add"},
        {"feature": "/"},
    ):
        with pytest.raises(UsageError):
            ImportOptions(**values)  # type: ignore[arg-type]


def test_a_full_disk_keeps_what_is_committed(tmp_path: Path, small_disk: Path) -> None:
    """The error says what to do; with room, the same command continues."""
    path = write(tmp_path / "f.npy", vectors(2000, 300), names(2000))
    options = ImportOptions(unit_rows=256)
    with pytest.raises(FungiError, match=r"(?s)No space.*make room.*committed unit is kept"):
        import_features(path, small_disk / "s.fungi", options)
    shutil.copytree(small_disk / "s.fungi", tmp_path / "s.fungi")
    done = import_features(path, tmp_path / "s.fungi", options)
    assert 0 < done.units_computed < 8
    np.testing.assert_array_equal(read(tmp_path / "s.fungi"), vectors(2000, 300))


def test_without_h5py_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 is optional: the error names what to install."""
    (tmp_path / "f.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match="pip install 'h5py>="):
        import_features(tmp_path / "f.h5", tmp_path / "s.fungi")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_span_of_rows_reads_the_same(tmp_path: Path, suffix: str) -> None:
    """Readers give the same rows forwards, backwards and across row groups."""
    from fungistore.exchange.plan import open_file
    from fungistore.exchange.table import ColumnNames

    path = write(tmp_path / f"f{suffix}", vectors(), names())
    file = open_file(path, ImportOptions(), ColumnNames())
    random = np.random.default_rng(0)
    for _ in range(200):
        start, stop = sorted(random.choice(ROWS + 1, 2, replace=False).tolist())
        np.testing.assert_array_equal(file.read(start, stop), vectors()[start:stop])
    file.close()


def fungi_import(*arguments: object):
    return CliRunner().invoke(app, ["import", *(str(argument) for argument in arguments)])


def test_the_command_takes_several_files_and_prints_json(tmp_path: Path) -> None:
    """FILE... STORE; what was made up is said on stderr, and the next step."""
    for name, seed in (("train", 0), ("test", 1)):
        np.save(tmp_path / f"{name}.npy", vectors(seed=seed))
    files = [tmp_path / "train.npy", tmp_path / "test.npy"]
    done = fungi_import(*files, tmp_path / "s.fungi", "--feature-set", "mine", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["matched"], document["feature_set"]) == (2 * ROWS, "mine")
    assert document["units"] == {"done": 1, "total": 1, "computed": 1}
    assert "the split is 'test', from the file's name" in done.stderr
    assert "has no ids: rows are named by their numbers" in done.stderr
    assert f"next: fungi status {tmp_path / 's.fungi'}" in done.stderr
    again = fungi_import(*files, tmp_path / "s.fungi", "--feature-set", "mine")
    assert "nothing to do: all 1 unit is done" in again.stderr
    assert "100 of 100 samples have embeddings [6] of float32 in mine" in again.stdout


def test_the_command_has_the_exit_codes_of_the_others(tmp_path: Path) -> None:
    """2 usage, 3 skipped rows, 4 other content."""
    store = tmp_path / "s.fungi"
    path = write(tmp_path / "a.npy", vectors(), names())
    assert fungi_import(path, store).exit_code == 0
    assert fungi_import(path).exit_code == 2
    assert fungi_import(path, store, "--unit-rows", 5).exit_code == 2
    assert fungi_import(path, store, "--unit-rows", 8).exit_code == 4
    more = write(tmp_path / "b.npy", vectors(60), names(60))
    skipped = fungi_import(more, store, "--feature-set", "other", "--unknown", "skip")
    assert skipped.exit_code == 3
    assert "10 rows have ids that the store does not know: skipped" in skipped.stderr


def test_a_row_that_is_not_finite_is_no_reason_to_refuse_the_type(tmp_path: Path) -> None:
    """A NaN beside a value too large for float16 is a row without use in any type."""
    matrix = vectors()
    matrix[1, :2], matrix[2, :2] = (np.nan, 1e6), (np.inf, 1e6)
    half = ImportOptions(storage_dtype="float16")
    path = write(tmp_path / "a.npy", matrix, names())
    done = import_features(path, tmp_path / "s.fungi", half)
    assert done.matched == len(matrix)
    matrix[3, 0] = 1e6
    path = write(tmp_path / "b.npy", matrix, names())
    with pytest.raises(UsageError, match="1 row has values that are too large"):
        import_features(path, tmp_path / "b.fungi", half)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_unusable_rows_end_an_import_as_they_end_an_extraction(
    tmp_path: Path, value: float
) -> None:
    """Exit 3 where some rows are, 1 where all are, though everything was written."""
    matrix = vectors()
    matrix[:2] = value
    some = fungi_import(write(tmp_path / "a.npy", matrix, names()), tmp_path / "a", "--json")
    assert (some.exit_code, json.loads(some.stdout)["unusable"]) == (3, 2)
    matrix[:] = value
    none = fungi_import(write(tmp_path / "b.npy", matrix, names()), tmp_path / "b", "--json")
    assert (none.exit_code, json.loads(none.stdout)["unusable"]) == (1, len(matrix))
    assert "no row is usable" in none.stderr
    np.testing.assert_array_equal(read(tmp_path / "b"), matrix)


def test_values_too_small_for_float16_are_refused_at_once(tmp_path: Path) -> None:
    """They would be stored as zeros, or with few digits; a zero row is one, and is counted."""
    matrix = vectors()
    matrix[1], matrix[3] = matrix[1] * 1e-12, matrix[3] * 3e-7
    matrix[2], matrix[4] = 0, matrix[4] * 1e-3
    path = tmp_path / "v.npy"
    np.save(path, matrix)
    half = ImportOptions(storage_dtype="float16")
    with pytest.raises(UsageError, match=r"(?s)2 rows.*too small.*--storage-dtype float32"):
        import_features(path, tmp_path / "s.fungi", half)
    assert not (tmp_path / "s.fungi").exists()
    assert import_features(path, tmp_path / "s.fungi").zero_rows == 1
    matrix[[1, 3]] = 1
    np.save(path, matrix)
    assert import_features(path, tmp_path / "h.fungi", half).zero_rows == 1
