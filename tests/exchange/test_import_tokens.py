"""Import of patch tokens: NumPy's own arrays are the oracle of what a store has of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from feature_world import Notices
from fungistore.errors import MismatchError, StoppedError, UsageError
from fungistore.exchange import import_
from fungistore.exchange.export import export_features
from fungistore.exchange.gather import Concatenated
from fungistore.exchange.import_ import import_features
from fungistore.exchange.named_arrays import NamedArrays
from fungistore.exchange.npy import NpyFile
from fungistore.exchange.options import ExportOptions, ImportOptions
from fungistore.exchange.table import ColumnNames
from fungistore.machine.context import Context
from fungistore.store.store import Store
from fungistore.verification.commands import command_for_array

SUFFIXES = [".npy", ".h5", ".zarr"]
ROWS, HEIGHT, WIDTH, DIM = 11, 3, 4, 8
PATCHES = ImportOptions(feature="patches")


def tokens(*shape: int, seed: int = 0, dtype: str = "float16") -> np.ndarray:
    """Random features of some shape; default: grids."""
    shape = shape or (ROWS, HEIGHT, WIDTH, DIM)
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def write(path: Path, values: np.ndarray, name: str = "features", **columns: Any) -> Path:
    """Write a file as other programs do; .npy has no room for columns."""
    path.parent.mkdir(exist_ok=True)
    chunks = tuple(-(-size // 2) for size in values.shape)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset(name, data=values, chunks=chunks, compression="gzip")
            for column, data in columns.items():
                file[column] = data
    else:
        group = zarr.open_group(path, mode="w")
        group.create_array(name, data=values, chunks=chunks)
        for column, data in columns.items():
            group.create_array(column, data=np.asarray(data))
    return path


def asked(**settings: Any) -> ImportOptions:
    return ImportOptions(feature="patches", **settings)


def read(store: Path, feature_set: str = "imported") -> np.ndarray:
    array = Store.open(store).arrays(feature_set)["patches"]
    return array.read(0, array.rows)


def said_by(run: Callable[[Context], Any]) -> tuple[Any, str]:
    """Return what a call returns, and what it tells its reporter."""
    said: list[str] = []
    return run(Context(reporter=Notices(said))), "\n".join(said)


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [(".npy", (11, 3, 4, 8)), (".h5", (11, 7, 8)), (".zarr", (11, 1, 8)), (".zarr", (11, 3, 4, 8))],
)
def test_tokens_arrive_bit_for_bit_and_leave_again(
    tmp_path: Path, suffix: str, shape: tuple[int, ...]
) -> None:
    """float16 grids and sequences are in the store as in the file; an export gives them back."""
    values = tokens(*shape)
    values[2, -1], values[5] = np.nan, 0
    store = tmp_path / "s.fungi"
    done = import_features(write(tmp_path / f"f{suffix}", values), store, asked(unit_rows=4))
    assert (done.shape, done.storage_dtype, done.units_done) == (shape[1:], "float16", 3)
    assert (done.nan_rows, done.zero_rows, done.unusable) == (1, 1, 2)
    np.testing.assert_array_equal(read(store), values, strict=True)
    for name in ("back.npy", "back.h5"):
        options = ExportOptions(features=("patches",), dtype="float16", keep_unusable=True)
        gone = export_features(store, tmp_path / name, options)
        assert (gone.shapes, gone.rows) == ({"patches": shape[1:]}, ROWS)
        again = import_features(tmp_path / name, tmp_path / f"{name}.fungi")  # needs no flags
        assert (again.feature, again.feature_set) == ("patches", "imported")
        expected = values.copy()
        expected[2] = np.nan  # a row that cannot be used is left out as a whole
        np.testing.assert_array_equal(read(tmp_path / f"{name}.fungi"), expected, strict=True)
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), expected, strict=True)


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".npy", ">f4"), (".h5", "<f8"), (".zarr", "<f8"), (".h5", ">f2")]
)
def test_any_float_is_stored_as_float16_unless_asked_otherwise(
    tmp_path: Path, suffix: str, dtype: str
) -> None:
    """Big-endian and double precision arrive as their values, rounded once by NumPy's rules."""
    values = tokens(dtype=dtype)
    path = write(tmp_path / f"f{suffix}", values)
    import_features(path, tmp_path / "h", PATCHES)
    np.testing.assert_array_equal(read(tmp_path / "h"), values.astype("float16"), strict=True)
    import_features(path, tmp_path / "s", asked(storage_dtype="float32"))
    np.testing.assert_array_equal(read(tmp_path / "s"), values.astype("float32"), strict=True)


@pytest.mark.parametrize("suffix", [".npy"])
def test_a_sequence_is_folded_row_by_row_without_its_prefix(tmp_path: Path, suffix: str) -> None:
    """--grid and --prefix-tokens: what a vision transformer puts out, and what is dropped is said.

    A class token of huge values is no reason to refuse float16 once it is dropped.
    """
    values = tokens(ROWS, 5 + 9, DIM, dtype="float32")
    values[:, :5] = 1e6
    path = write(tmp_path / f"f{suffix}", values)
    expected = values[:, 5:].reshape(ROWS, 3, 3, DIM).astype("float16")
    for number, grid in enumerate(("auto", "3x3")):
        store, options = tmp_path / f"{number}", asked(grid=grid, prefix_tokens=5)
        _, said = said_by(
            lambda context, s=store, o=options: import_features(path, s, o, context=context)
        )
        assert "the first 5 tokens of each row (class, registers) are dropped" in said
        np.testing.assert_array_equal(read(store), expected, strict=True)
    done, said = said_by(
        lambda context: import_features(
            path, tmp_path / "q", asked(prefix_tokens=5), context=context
        )
    )
    assert done.shape == (9, DIM)
    assert "a sequence of 9" in said
    assert "--grid 3x3 --prefix-tokens 5" in said
    np.testing.assert_array_equal(read(tmp_path / "q"), values[:, 5:].astype("float16"))


@pytest.mark.parametrize("suffix", [".h5"])
def test_channels_first_are_moved_last(tmp_path: Path, suffix: str) -> None:
    """[rows, width, h, w] of a convolution, and [rows, width, tokens]."""
    grids, sequences = tokens(ROWS, DIM, 3, 2), tokens(ROWS, DIM, 5)
    path = write(tmp_path / f"g{suffix}", grids)
    with pytest.raises(UsageError, match=r"(?s)channels came first.*8 x 3 x 2.*--channels first"):
        import_features(path, tmp_path / "g", PATCHES)
    import_features(path, tmp_path / "g", asked(channels="first"))
    np.testing.assert_array_equal(read(tmp_path / "g"), grids.transpose(0, 2, 3, 1), strict=True)
    import_features(path, tmp_path / "l", asked(channels="last"))
    np.testing.assert_array_equal(read(tmp_path / "l"), grids, strict=True)
    path = write(tmp_path / f"s{suffix}", sequences)
    import_features(path, tmp_path / "s", asked(channels="first", grid="2x2", prefix_tokens=1))
    expected = sequences.transpose(0, 2, 1)[:, 1:].reshape(ROWS, 2, 2, DIM)
    np.testing.assert_array_equal(read(tmp_path / "s"), expected, strict=True)


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_a_large_chunk_is_read_once(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many units it has; the rows are those of the file, across its chunks too."""
    values = tokens(ROWS, HEIGHT, WIDTH, DIM)  # chunks of 6 rows
    path = write(tmp_path / f"f{suffix}", values)
    monkeypatch.setattr("fungistore.exchange.named_arrays.READ_BYTES", 1)
    spans = []
    read_chunk = NamedArrays._read

    def counting(self: NamedArrays, start: int, stop: int) -> np.ndarray:
        spans.append((start, stop))
        return read_chunk(self, start, stop)

    monkeypatch.setattr(NamedArrays, "_read", counting)
    import_features(path, tmp_path / "s", asked(unit_rows=4))
    assert spans == [(0, 6), (6, 11)]
    np.testing.assert_array_equal(read(tmp_path / "s"), values, strict=True)


@pytest.mark.parametrize("at_once", [1, 1000, 10**6])
def test_fortran_order_reads_the_same(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array that NumPy saved column by column, some columns at a time; in any order of rows."""
    monkeypatch.setattr("fungistore.exchange.npy.READ_BYTES", at_once)
    values = tokens()
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    import_features(tmp_path / "f.npy", tmp_path / "s", asked(unit_rows=2))
    np.testing.assert_array_equal(read(tmp_path / "s"), values, strict=True)
    order = np.random.default_rng(0).permutation(ROWS)
    file = NpyFile(tmp_path / "f.npy", ColumnNames())
    np.testing.assert_array_equal(file.take(order), values[order], strict=True)


@pytest.mark.parametrize(
    ("suffix", "chunked"), [(".npy", False), (".h5", True), (".zarr", False), (".zarr", True)]
)
def test_rows_are_matched_by_id_in_any_order(
    tmp_path: Path, suffix: str, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels and ids of a table; a second file in another order, some of its rows missing."""
    from fungistore.exchange import named_arrays

    if chunked:  # such files are copied to a scratch file first
        monkeypatch.setattr(named_arrays, "RANDOM_BYTES", 0)
    values, order = tokens(40, 2, 2, DIM), np.random.default_rng(1).permutation(40)[:30]
    table, other = tmp_path / "t.csv", tmp_path / "o.csv"
    table.write_text("id,label\n" + "".join(f"i{row},c{row % 2}\n" for row in range(40)))
    other.write_text("id\n" + "".join(f"i{row}\n" for row in order))
    store = tmp_path / "s.fungi"
    import_features(write(tmp_path / f"a{suffix}", values), store, asked(table=table))
    assert Store.open(store).manifest.labels == ("c0", "c1")
    path = write(tmp_path / f"b{suffix}", values[order])
    done = import_features(path, store, asked(table=other, feature_set="o", unit_rows=4))
    assert done.matched == 30
    expected = np.full_like(values, np.nan)
    expected[order] = values[order]
    np.testing.assert_array_equal(read(store, "o"), expected, strict=True)
    assert not list(store.rglob("*.partial"))


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    """Of any format; their splits come from their names, and their shapes must agree."""
    parts = [tokens(4, 2, 2, DIM, seed=1), tokens(5, 2, 2, DIM, seed=2), tokens(3, 2, 2, DIM)]
    names = ["a-train.npy", "b-val.h5", "c-test.zarr"]
    paths = [write(tmp_path / name, part) for name, part in zip(names, parts, strict=True)]
    import_features(paths, tmp_path / "s", asked(unit_rows=2))
    np.testing.assert_array_equal(read(tmp_path / "s"), np.concatenate(parts), strict=True)
    splits = Store.open(tmp_path / "s").samples.splits()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "val": 5, "test": 3}
    odd = write(tmp_path / "odd.npy", tokens(4, 3, 2, DIM))
    with pytest.raises(UsageError, match=r"(?s)not of the same shape.*2 x 2 x 8.*3 x 2 x 8"):
        import_features([paths[0], odd], tmp_path / "t", PATCHES)


def tree(root: Path) -> dict[str, bytes]:
    """A store's files, without locks, its random id and the checksum of that."""
    files = [f.relative_to(root) for f in root.rglob("*") if f.is_file()]
    found = {str(f): (root / f).read_bytes() for f in files if f.parts[0] != ".locks"}
    document = json.loads(found.pop("store.json"))
    del document["id"], document["checksum"]
    return found | {"store.json": json.dumps(document).encode()}


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_a_stopped_import_continues_to_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    """Stopped between units, again and again, the store ends as that of an unbroken run."""
    path = write(tmp_path / f"f{suffix}", tokens(12, 10, DIM, dtype="float32"))
    options = asked(unit_rows=2, grid="3x3", prefix_tokens=1)
    import_features(path, tmp_path / "one", options)
    stops = 0
    while True:
        counter = itertools.count()
        try:
            context = Context(stop=lambda c=counter: next(c) >= 3)
            done = import_features(path, tmp_path / "two", options, context=context)
            break
        except StoppedError:
            stops += 1
    assert stops >= 2
    assert done.units_done == 6
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_another_reading_of_the_same_file_is_a_mismatch(tmp_path: Path) -> None:
    """Grid, prefix, channels and type are part of the fingerprint; --restart makes it anew."""
    path = write(tmp_path / "f.npy", tokens(6, 4, 4))
    import_features(path, tmp_path / "s", asked(grid="2x2"))
    for changed, field in (
        (asked(grid="4x1"), "grid"),
        (asked(), "grid"),
        (asked(grid="1x3", prefix_tokens=1), "prefix_tokens"),
        (asked(grid="2x2", channels="first"), "channels"),
        (asked(grid="2x2", storage_dtype="float32"), "patches.dtype"),
    ):
        with pytest.raises(MismatchError, match=field):
            import_features(path, tmp_path / "s", changed)
    done = import_features(path, tmp_path / "s", asked(grid="4x1"), restart=True)
    assert done.shape == (4, 1, 4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_more_is_read_at_once_than_a_few_units(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the file is: the largest block that is asked for is one of a unit's rows."""
    blocks: list[int] = []
    reading = Concatenated.read

    def noted(self: Concatenated, start: int, stop: int) -> np.ndarray:
        blocks.append((stop - start) * np.prod(self.row_shape) * self.dtype.itemsize)
        return reading(self, start, stop)

    values = tokens(48, 4, 4, DIM, dtype="float32")
    row = values[0].nbytes
    monkeypatch.setattr(Concatenated, "read", noted)
    monkeypatch.setattr(import_, "UNIT_BYTES", 4 * row // 2)  # four rows of float16
    monkeypatch.setattr("fungistore.exchange.formats.READ_BYTES", 3 * row)
    path = write(tmp_path / f"f{suffix}", values)
    done = import_features(path, tmp_path / "s", PATCHES)
    assert done.units_done == 12
    assert sum(blocks) == 2 * values.nbytes  # once to look for values that do not fit
    assert max(blocks) == 4 * row


@pytest.mark.parametrize(
    ("feature", "options", "flags"),
    [
        (
            "patches",
            asked(grid="2x2", prefix_tokens=1, channels="first"),
            "patches --grid 2x2 --prefix-tokens 1 --channels first",
        ),
        ("patches", asked(), "patches --channels last"),
        ("kl", ImportOptions(feature="kl"), "kl"),
    ],
    ids=["grid", "sequence", "vectors"],
)
def test_the_command_that_imports_again_reads_the_file_alike(
    tmp_path: Path, feature: str, options: ImportOptions, flags: str
) -> None:
    """What fungi verify names after a repair has the flags that make the same fingerprint."""
    values = tokens(ROWS, 5, 5) if feature == "patches" else tokens(ROWS, 5)
    import_features(write(tmp_path / "f.npy", values), tmp_path / "s", options)
    (array,) = Store.open(tmp_path / "s").arrays("imported").values()
    command = command_for_array(Store.open(tmp_path / "s"), array.name, array.fingerprint)
    expected = f"fungi import FILE {tmp_path / 's'} --feature-set imported --as {flags}"
    assert command == expected


def test_units_of_vectors_that_are_too_long_for_tokens_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of a set have the same units: tokens first, or in a set of their own."""
    monkeypatch.setattr(import_, "LARGEST_UNIT_BYTES", 1000)
    path, store = write(tmp_path / "f.npy", tokens()), tmp_path / "s"
    np.save(tmp_path / "v.npy", tokens(ROWS, 6, dtype="float32"))
    import_features(tmp_path / "v.npy", store)
    with pytest.raises(UsageError, match=r"(?s)chunks of 16 rows.*import patches first"):
        import_features(path, store, PATCHES)
    import_features(path, store, asked(feature_set="o", unit_rows=4))
    import_features(tmp_path / "v.npy", store, ImportOptions(feature_set="o"))
    assert set(Store.open(store).arrays("o")) == {"patches", "embeddings"}


def test_values_too_large_for_float16_are_refused_at_once(tmp_path: Path) -> None:
    """Channels of DINOv3 can be; nothing becomes infinite silently, and nothing is written."""
    values = tokens(dtype="float32")
    values[[1, 7], 0, 0, 3] = 70_000
    path = write(tmp_path / "f.npy", values)
    with pytest.raises(UsageError, match=r"(?s)2 rows have values.*--storage-dtype float32"):
        import_features(path, tmp_path / "s", PATCHES)
    assert not (tmp_path / "s").exists()
    import_features(path, tmp_path / "s", asked(storage_dtype="float32"))
    np.testing.assert_array_equal(read(tmp_path / "s"), values, strict=True)
    options = ExportOptions(features=("patches",), dtype="float16")
    with pytest.raises(UsageError, match=r"(?s)too large for float16.*--dtype float32"):
        export_features(tmp_path / "s", tmp_path / "b.npy", options)


def test_exports_of_tokens_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    """Other features beside them, Parquet, zarr, and a set without tokens."""
    import_features(write(tmp_path / "f.npy", tokens()), tmp_path / "s", PATCHES)
    np.save(tmp_path / "v.npy", tokens(ROWS, 6))
    import_features(tmp_path / "v.npy", tmp_path / "s", ImportOptions(feature_set="v"))
    alone = ("patches",)
    for name, options, message in (
        ("f.npy", ExportOptions(features=("embeddings", *alone), feature_set="imported"), "twice"),
        ("f.npy", ExportOptions(features=alone, feature_set="v"), "there are no patches"),
        ("f.parquet", ExportOptions(features=alone, feature_set="imported"), r"choose \.npy"),
        ("f.zarr", ExportOptions(features=alone, feature_set="imported"), "does not tell"),
    ):
        with pytest.raises(UsageError, match=message):
            export_features(tmp_path / "s", tmp_path / f"new-{name}", options)


# --- what is no patch tokens

MASK = np.arange(6)[None] < np.arange(1, ROWS + 1)[:, None]
BAD: dict[str, tuple[str, np.ndarray, ImportOptions, dict[str, Any], str]] = {
    "vectors": (".npy", tokens(ROWS, DIM), PATCHES, {}, r"(?s)no patch tokens.*\[11, 8\]"),
    "five numbers": (".npy", tokens(2, 2, 2, 2, 2), PATCHES, {}, "no patch tokens"),
    "a single number": (".npy", np.float32(1), PATCHES, {}, "a single number"),
    "no rows": (".npy", tokens(0, 2, 2, DIM), PATCHES, {}, "the array is empty"),
    "quantised": (".npy", np.zeros((3, 2, 2, 8), "int8"), PATCHES, {}, r"(?s)int8.*scale"),
    "bfloat16": (".npy", np.zeros((3, 2, 2, 8), "uint16"), PATCHES, {}, r"(?s)bfloat16.*view"),
    "bfloat16 of JAX": (".npy", np.zeros((3, 2, 8), "V2"), PATCHES, {}, r"(?s)bfloat16.*view"),
    "not asked for": (".npy", tokens(), ImportOptions(), {}, r"(?s)not a matrix.*--as patches"),
    "flags of tokens": (".npy", tokens(ROWS, 4), ImportOptions(grid="2x2"), {}, "--as patches"),
    "no square": (
        ".npy",
        tokens(ROWS, 10, DIM),
        asked(grid="auto"),
        {},
        r"(?s)10 tokens cannot be folded to a square.*--grid 3x3 --prefix-tokens 1",
    ),
    "another grid": (".npy", tokens(ROWS, 9, DIM), asked(grid="2x4"), {}, r"(?s)2 x 4.*3x3"),
    "no token left": (".npy", tokens(ROWS, 4, DIM), asked(prefix_tokens=4), {}, "no token is left"),
    "a grid of a grid": (".npy", tokens(), asked(grid="3x4"), {}, r"(?s)grid already.*leave out"),
    "prefix of a grid": (".npy", tokens(), asked(prefix_tokens=1), {}, "leave out --prefix-tokens"),
    "fewer labels": (".h5", tokens(), PATCHES, {"targets": [1, 2]}, "number of labels differs"),
    "a slide": (
        ".h5",
        tokens(1, 30, DIM),
        PATCHES,
        {"coords": np.zeros((30, 2), int)},
        r"(?s)patches of one slide.*a bag.*one vector each",
    ),
    "no array of tokens": (
        ".h5",
        tokens(30, DIM),
        PATCHES,
        {},
        r"(?s)patches cannot be chosen.*\[rows, tokens, width\].*features \[30, 8\]",
    ),
    "padded": (".h5", tokens(ROWS, 6, DIM), PATCHES, {"mask": MASK}, "different numbers of tokens"),
    "padded zarr": (
        ".zarr",
        tokens(ROWS, 6, DIM),
        PATCHES,
        {"lengths": MASK.sum(axis=1)},
        "different numbers of tokens",
    ),
    "padded, imported as its name says": (
        ".h5",
        tokens(ROWS, 6, DIM),
        ImportOptions(),
        {"name": "patches", "mask": MASK},
        "different numbers of tokens",
    ),
    "padded in its last rows alone": (
        ".h5",
        tokens(16_385, 2, 1),
        PATCHES,
        {"lengths": [2] * 16_384 + [1]},
        "different numbers of tokens",
    ),
    "a mask of floats is no matrix": (
        ".h5",
        tokens(ROWS, 6, DIM),
        ImportOptions(),
        {"mask": MASK.astype("float32")},
        "--as patches, if features holds",
    ),
    "several": (
        ".zarr",
        tokens(),
        PATCHES,
        {"other": tokens()},
        r"(?s)patches cannot be chosen.*one of features, other.*--key",
    ),
    "Parquet": (".parquet", tokens(), PATCHES, {}, r"(?s)vectors alone.*np\.save"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_patch_tokens_is_refused_and_no_store_is_made(tmp_path: Path, case: str) -> None:
    """Every refusal says what was found and what to try."""
    suffix, values, options, columns, message = BAD[case]
    path = tmp_path / f"f{suffix}"
    if suffix != ".parquet":
        write(path, values, **columns)
    with pytest.raises(UsageError, match=message) as caught:
        import_features(path, tmp_path / "s.fungi", options)
    assert caught.value.hint
    assert not (tmp_path / "s.fungi").exists()


def test_masks_without_padding_are_no_reason_to_refuse(tmp_path: Path) -> None:
    """Every token is real: the rows are of one length, whatever lies beside them."""
    columns = {"attention_mask": np.ones((ROWS, 7), bool), "lengths": np.full(ROWS, 7)}
    path = write(tmp_path / "f.h5", tokens(ROWS, 7, DIM), **columns)
    assert import_features(path, tmp_path / "s", PATCHES).shape == (7, DIM)


@pytest.mark.parametrize("feature_set", ["../../../out", "a/b", "", 5])
def test_a_file_cannot_name_a_feature_set_outside_of_the_store(
    tmp_path: Path, feature_set: object
) -> None:
    """What a file says of its export is not trusted: nothing is written beside the store."""
    path = write(tmp_path / "in" / "f.h5", tokens())
    with h5py.File(path, "a") as file:
        file.attrs["fungi"] = json.dumps({"feature_set": feature_set})
    with pytest.raises(UsageError, match=r"(?s)what the file says.*feature_set"):
        import_features(path, tmp_path / "s" / "t" / "s.fungi", PATCHES)
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("said", ["a mushroom", "[1]", np.arange(3)])
def test_what_other_programs_call_fungi_is_no_record_of_an_export(
    tmp_path: Path, said: object
) -> None:
    """The attribute may be anybody's."""
    path = write(tmp_path / "f.h5", tokens())
    with h5py.File(path, "a") as file:
        file.attrs["fungi"] = said
    assert import_features(path, tmp_path / "s", PATCHES).feature_set == "imported"


def test_a_key_may_begin_with_a_slash(tmp_path: Path) -> None:
    """As h5ls prints it."""
    path = write(tmp_path / "f.h5", tokens(), name="layer/11/tokens", other=tokens(seed=1))
    import_features(path, tmp_path / "s", asked(key="/layer/11/tokens"))
    np.testing.assert_array_equal(read(tmp_path / "s"), tokens(), strict=True)


@pytest.mark.parametrize("address", ["https://a.org/t.zarr", "s3://a/t.npy"])
def test_addresses_are_not_downloaded_and_it_is_said(tmp_path: Path, address: str) -> None:
    """The hint says how to get the file."""
    with pytest.raises(UsageError, match="are not downloaded"):
        import_features(address, tmp_path / "s", PATCHES)


def test_rows_of_different_lengths_are_refused(tmp_path: Path) -> None:
    """Arrays of arrays, of NumPy and of HDF5."""
    np.save(tmp_path / "f.npy", np.array([np.zeros(2), np.zeros(3)], object), allow_pickle=True)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("features", (3,), h5py.vlen_dtype(np.float32))
    for name, message in (("f.npy", "different lengths"), ("f.h5", "different lengths")):
        with pytest.raises(UsageError, match=message):
            import_features(tmp_path / name, tmp_path / "s", PATCHES)
