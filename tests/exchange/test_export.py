"""Export: what the files hold, as other programs read them; they are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from fungi_cli.main import app
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.exchange.export import export_features
from fungistore.exchange.import_ import import_features
from fungistore.exchange.npy import sidecar_of
from fungistore.exchange.options import ExportOptions, ImportOptions
from fungistore.machine.context import Context
from fungistore.store.removed import write_removed
from fungistore.store.store import Store

ROWS, UNIT = 50, 16
BAD = 7  # a row of NaN


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two blocks of 50 rows, the second in float16 and with a row of NaN; one row unlabelled."""
    embeddings, labels = clustered(ROWS, 3, 6, seed=1)
    gradients = clustered(ROWS, 3, 4, seed=2)[0].astype(np.float16)
    gradients[BAD] = np.nan
    labelled: list[str | None] = [*labels]
    labelled[3] = None
    splits = ["train" if row % 3 else "test" for row in range(ROWS)]
    splits[5] = None
    blocks = {"embeddings": embeddings, "gradients/kl": gradients}
    return make_store(tmp_path / "s.fungi", blocks, labelled, splits, unit_rows=UNIT)


def stored(store: Store, name: str) -> np.ndarray:
    return store.arrays("set")[name].read(0, ROWS).astype(np.float32)


def expected(store: Store) -> np.ndarray:
    """Blocks divided by their norm, side by side, as scikit-learn does it."""
    blocks = [stored(store, name) for name in ("embeddings", "gradients/kl")]
    blocks[1][BAD] = 0
    joined = np.hstack([normalize(block) for block in blocks])
    joined[BAD] = np.nan
    return joined


USABLE = np.array([row for row in range(ROWS) if row != BAD])


def test_npy_holds_normalised_blocks_and_a_table_of_rows(store: Store, tmp_path: Path) -> None:
    """NumPy reads the matrix; the table beside it has the rows in the same order."""
    done = export_features(store.root, tmp_path / "f.npy")
    matrix = np.load(tmp_path / "f.npy", allow_pickle=False)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, expected(store)[USABLE], atol=1e-6)
    table = pq.read_table(sidecar_of(tmp_path / "f.npy")).to_pydict()
    assert table["row"] == USABLE.tolist()
    assert table["id"] == [f"{row:06d}.jpg" for row in USABLE]
    assert table["label"][3] is None
    assert table["label_name"][:4] == ["class 0", "class 1", "class 2", None]
    assert table["split"][:6] == ["test", "train", "train", "test", "train", None]
    assert (done.rows, done.unusable, done.widths) == (49, 1, {"embeddings": 10})
    assert done.files == (str(tmp_path / "f.npy"), str(tmp_path / "f.samples.parquet"))
    json.dumps(done.to_json())


def test_parquet_holds_a_row_a_sample(store: Store, tmp_path: Path) -> None:
    """Arrow reads ids, labels, splits, a fixed-size list of floats, and where it comes from."""
    export_features(store.root, tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet")
    assert str(table.schema.field("embeddings").type) == "fixed_size_list<element: float>[10]"
    vectors = table["embeddings"].combine_chunks().flatten().to_numpy().reshape(-1, 10)
    np.testing.assert_allclose(vectors, expected(store)[USABLE], atol=1e-6)
    assert table["id"].to_pylist() == [f"{row:06d}.jpg" for row in USABLE]
    said = json.loads(table.schema.metadata[b"fungi"])
    assert (said["feature_set"], said["features"]) == ("set", ["embeddings", "kl"])
    assert set(said["fingerprints"]) == {"set/embeddings", "set/gradients/kl"}
    assert said["label_names"] == ["class 0", "class 1", "class 2"]


def test_hdf5_has_the_layout_of_the_reference_code(store: Store, tmp_path: Path) -> None:
    """`embeddings` float32 and `targets` uint32; unlabelled rows have the largest uint32."""
    export_features(store.root, tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_allclose(file["embeddings"][:], expected(store)[USABLE], atol=1e-6)
        assert file["targets"].dtype == np.uint32
        assert file["targets"][:4].tolist() == [0, 1, 2, 2**32 - 1]
        assert file["targets"].attrs["unlabelled"] == 2**32 - 1
        assert file["label_names"].asstr()[:].tolist() == ["class 0", "class 1", "class 2"]
        assert file["ids"].asstr()[2] == "000002.jpg"
        assert file["splits"].asstr()[:6].tolist() == [
            "test",
            "train",
            "train",
            "test",
            "train",
            "",
        ]
        assert json.loads(file.attrs["fungi"])["store"] == store.manifest.id


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_separate_and_raw_give_each_block_as_it_is_stored(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    """--separate --raw writes a matrix a feature with the stored values, bit for bit."""
    path = tmp_path / f"f{suffix}"
    done = export_features(store.root, path, ExportOptions(separate=True, raw=True))
    assert done.widths == {"embeddings": 6, "kl": 4}
    for key, name in (("embeddings", "embeddings"), ("kl", "gradients/kl")):
        if suffix == ".h5":
            with h5py.File(path) as file:
                found = file[key][:]
        else:
            found = np.array(pq.read_table(path)[key].to_pylist(), np.float32)
        np.testing.assert_array_equal(found, stored(store, name)[USABLE])


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_unusable_rows_can_be_kept_as_nan(store: Store, tmp_path: Path, suffix: str) -> None:
    """--keep-unusable writes every row of the sample table in its order."""
    done = export_features(store.root, tmp_path / f"f{suffix}", ExportOptions(keep_unusable=True))
    assert (done.rows, done.unusable) == (ROWS, 1)
    if suffix == ".npy":
        matrix = np.load(tmp_path / "f.npy")
        assert np.flatnonzero(np.isnan(matrix).all(axis=1)).tolist() == [BAD]


def test_rows_without_a_committed_unit_are_missing(store: Store, tmp_path: Path) -> None:
    """A chunk without its record is nothing, even if its bytes are there."""
    for record in (store.root / "commits/set/embeddings").glob("*1.json"):
        record.unlink()
    done = export_features(store.root, tmp_path / "f.npy", ExportOptions(features=("embeddings",)))
    assert (done.rows, done.unusable) == (ROWS - UNIT, UNIT)
    rows = pq.read_table(sidecar_of(tmp_path / "f.npy"))["row"].to_pylist()
    assert set(rows) == set(range(ROWS)) - set(range(UNIT, 2 * UNIT))
    raw = ExportOptions(features=("embeddings",), raw=True, keep_unusable=True)
    export_features(store.root, tmp_path / "raw.npy", raw)
    assert np.isnan(np.load(tmp_path / "raw.npy")[UNIT : 2 * UNIT]).all()


def test_rows_whose_file_is_gone_are_exported_and_counted(store: Store, tmp_path: Path) -> None:
    """Whoever trains on the file is told; of those alone that are in it."""
    write_removed(store.folder(), np.array([0, 1, BAD]))
    said: list[str] = []
    done = export_features(store.root, tmp_path / "o.npy", context=Context(Notices(said)))
    assert done.rows == ROWS - 1
    assert "2 rows are of files that are gone" in said[-1]
    options = ExportOptions(split="test")
    export_features(store.root, tmp_path / "t.npy", options, context=Context(Notices(said)))
    assert "1 row is of files" in said[-1]


def test_a_split_alone(store: Store, tmp_path: Path) -> None:
    """--split writes the rows of that split; an unknown one lists those that are there."""
    done = export_features(store.root, tmp_path / "f.npy", ExportOptions(split="test"))
    assert done.rows == 17
    assert set(pq.read_table(sidecar_of(tmp_path / "f.npy"))["split"].to_pylist()) == {"test"}
    with pytest.raises(UsageError, match="test, train"):
        export_features(store.root, tmp_path / "g.npy", ExportOptions(split="dev"))


def test_float16_is_the_rounded_float32(store: Store, tmp_path: Path) -> None:
    """--dtype float16 rounds to nearest, and refuses values that it has no room for."""
    export_features(store.root, tmp_path / "f.npy")
    export_features(store.root, tmp_path / "h.npy", ExportOptions(dtype="float16"))
    half = np.load(tmp_path / "h.npy")
    np.testing.assert_array_equal(half, np.load(tmp_path / "f.npy").astype(np.float16))
    large = make_store(
        tmp_path / "l.fungi", {"embeddings": np.full((3, 2), 1e6, np.float32)}, "abc"
    )
    with pytest.raises(UsageError, match="3 rows have values that are too large") as caught:
        export_features(large.root, tmp_path / "l.npy", ExportOptions(dtype="float16", raw=True))
    assert "--dtype float32" in str(caught.value)
    small = make_store(
        tmp_path / "t.fungi", {"embeddings": np.full((3, 2), 1e-9, np.float32)}, "abc"
    )
    with pytest.raises(UsageError, match="3 rows have values that are too small"):
        export_features(small.root, tmp_path / "l.npy", ExportOptions(dtype="float16", raw=True))
    assert not list(tmp_path.glob("*l.*npy*"))


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_a_file_is_never_replaced_unasked_and_never_half(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    """Without overwrite a file is refused; a stop leaves the old one, and nothing besides."""
    folder = tmp_path / "out"
    path = folder / f"f{suffix}"
    export_features(store.root, path)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UsageError, match="--force"):
        export_features(store.root, path)
    with pytest.raises(StoppedError):
        export_features(store.root, path, overwrite=True, context=Context(stop=lambda: True))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    export_features(store.root, path, ExportOptions(split="test"), overwrite=True)
    assert path.read_bytes() != before[path.name]


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, small_disk: Path, suffix: str) -> None:
    """No room: the error says so, and the file is not there."""
    vectors = np.random.default_rng(0).normal(size=(2000, 300)).astype(np.float32)
    big = make_store(tmp_path / "b.fungi", {"embeddings": vectors}, ["a"] * 2000, unit_rows=512)
    with pytest.raises(FungiError, match=r"(?s)0\.002 GB.*free.*make room"):
        export_features(big.root, small_disk / f"f{suffix}")
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, small_disk: Path, suffix: str) -> None:
    """Where only the ids are too long for the disk, the write fails half-way, and is undone."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "f.npy", random.normal(size=(20_000, 1)).astype(np.float32))
    ids = "\n".join(random.bytes(80).hex() for _ in range(20_000))
    (tmp_path / "ids.txt").write_text(ids)
    import_features(
        tmp_path / "f.npy", tmp_path / "b.fungi", ImportOptions(table=tmp_path / "ids.txt")
    )
    with pytest.raises(FungiError, match=r"(?s)No space.*make room.*nothing was written"):
        export_features(tmp_path / "b.fungi", small_disk / f"f{suffix}")
    assert not list(small_disk.iterdir())


def test_what_cannot_be_exported_is_refused(store: Store, tmp_path: Path) -> None:
    """Unknown suffixes, formats, types and .npy with several matrices name the way out."""
    for name, options, hint in (
        ("f.txt", ExportOptions(), "--format npy, parquet or hdf5"),
        ("f.npy", ExportOptions(separate=True), "leave out --separate"),
        ("f.npy", ExportOptions(pca="x"), "fungi pca"),
    ):
        with pytest.raises(UsageError) as caught:
            export_features(store.root, tmp_path / name, options)
        assert hint in str(caught.value)
    with pytest.raises(UsageError, match="float16 or float32"):
        ExportOptions(dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="npy or parquet or hdf5"):
        ExportOptions(format="zip")  # type: ignore[arg-type]
    done = export_features(store.root, tmp_path / "odd.bin", ExportOptions(format="npy"))
    assert np.load(tmp_path / "odd.bin").shape == (49, 10)
    assert done.files[1].endswith("odd.bin.samples.parquet")


def test_a_block_of_rows_does_not_depend_on_how_many_are_read_at_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read unit by unit or all at once, the file has the same bytes."""
    export_features(store.root, tmp_path / "one.npy")
    monkeypatch.setattr("fungistore.exchange.formats.READ_BYTES", 1)
    export_features(store.root, tmp_path / "two.npy")
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()


def fungi_export(*arguments: object):
    return CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)])


def test_the_command_prints_one_json_object(store: Store, tmp_path: Path) -> None:
    """--json on stdout, the rows left out on stderr, and exit code 0 all the same."""
    path = tmp_path / "f.h5"
    done = fungi_export(store.root, path, "--features", "kl", "--split", "train", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["rows"], document["unusable"]) == (31, 1)
    assert document["files"] == [str(path)]
    assert "1 row without usable features is left out (--keep-unusable" in done.stderr
    assert fungi_export(store.root, path).exit_code == 2
    shown = fungi_export(store.root, path, "--force", "--separate", "--raw")
    assert "embeddings [49, 6], kl [49, 4] of float32; embeddings + kl of set" in shown.stdout
