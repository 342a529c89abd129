"""zarr folders, of both versions, as other programs write them: read, or refused with a reason."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Pickle
from test_import_tokens import PATCHES, ROWS, said_by, tokens

from fungistore.errors import UsageError
from fungistore.exchange.import_ import import_features
from fungistore.exchange.options import ImportOptions
from fungistore.store.store import Store

VALUES = tokens(dtype="float32")


def read(store: Path, feature: str) -> np.ndarray:
    array = Store.open(store).arrays("imported")[feature]
    return array.read(0, array.rows)


@pytest.fixture(autouse=True)
def _new_types() -> Any:
    """zarr warns of types that its third version has no specification of yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_group(path: Path, version: int) -> Path:
    """Vectors and tokens with ids and labels; ids of version 3 are bytes, of version 2 text."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    more: dict[str, Any] = {"compressors": Blosc()} if version == 2 else {"shards": (8, 4, 4, 8)}
    group.create_array("deep/tokens", data=VALUES, chunks=(4, 2, 2, 8), **more)
    group.create_array("embeddings", data=VALUES[:, 0, 0], chunks=(4, 8))
    names = [f"name {row}" for row in range(ROWS)]
    if version == 2:
        group.create_array("ids", shape=(ROWS,), dtype=str)[:] = np.array(names, object)
    else:
        group.create_array("ids", data=np.array(names, "S8"))
    group.create_array("targets", data=np.arange(ROWS) % 3)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_group_has_vectors_tokens_ids_and_labels(tmp_path: Path, version: int) -> None:
    """Each array is found by what it can be; both become features of the same samples."""
    path, store = write_group(tmp_path / "f.zarr", version), tmp_path / "s"
    import_features(path, store, PATCHES)
    done = import_features(path, store)
    assert (done.feature, done.matched, done.unknown) == ("embeddings", ROWS, 0)
    np.testing.assert_array_equal(read(store, "patches"), VALUES.astype("float16"), strict=True)
    np.testing.assert_array_equal(read(store, "embeddings"), VALUES[:, 0, 0], strict=True)
    opened = Store.open(store)
    assert [row["id"] for row in opened.samples.rows(0, 2)] == ["name 0", "name 1"]
    assert opened.samples.labels().tolist() == [row % 3 for row in range(ROWS)]


@pytest.mark.parametrize("version", [2, 3])
def test_a_single_array_has_no_name(tmp_path: Path, version: int) -> None:
    """Its folder is the file; the fingerprint is that of its chunks."""
    path = tmp_path / "train.zarr"
    zarr.create_array(path, data=VALUES, zarr_format=version)
    import_features(path, tmp_path / "s", PATCHES)
    np.testing.assert_array_equal(read(tmp_path / "s", "patches"), VALUES.astype("float16"))
    assert list(Store.open(tmp_path / "s").samples.splits()) == ["train"]
    with pytest.raises(UsageError, match="leave out --key"):
        import_features(path, tmp_path / "t", ImportOptions(feature="patches", key="x"))


def _chunk(path: Path, content: bytes | None) -> None:
    """Replace a chunk of an array with others."""
    (chunk,) = path.rglob("c/1/0/0/0")
    if content is None:
        chunk.unlink()
    else:
        chunk.write_bytes(content)


def _array(path: Path) -> None:
    zarr.create_array(path, data=VALUES, chunks=(4, 3, 4, 8))


def _damaged(path: Path) -> None:
    _array(path)
    _chunk(path, b"no chunk")


def _pickled(path: Path) -> None:
    """Text whose bytes are a pickle: zarr itself refuses only what is a pickle first of all."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("tokens", data=VALUES)
    group.create_array("ids", shape=(ROWS,), dtype=str, compressors=None)
    document = json.loads((path / "ids" / ".zarray").read_bytes())
    document["filters"] += [Pickle().get_config()]
    (path / "ids" / ".zarray").write_text(json.dumps(document))
    (path / "ids" / "0").write_bytes(pickle.dumps(_Bomb()))


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code was run')",))


def _pickled_numbers(path: Path) -> None:
    zarr.create_array(path, data=VALUES, zarr_format=2, compressors=Pickle())


def _linked(path: Path) -> None:
    _array(path)
    (chunk,) = path.rglob("c/1/0/0/0")
    chunk.rename(path.parent / "elsewhere")
    chunk.symlink_to(path.parent / "elsewhere")


def _linked_folder(path: Path) -> None:
    _array(path)
    (path / "c" / "1").rename(path.parent / "elsewhere")
    (path / "c" / "1").symlink_to(path.parent / "elsewhere")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda path: None, "no such file"),
    "a file": (lambda path: path.write_text("zarr"), r"(?s)cannot be read as zarr.*folders"),
    "an empty folder": (lambda path: path.mkdir(), "cannot be read as zarr"),
    "a group without arrays": (
        lambda path: zarr.open_group(path, mode="w"),
        r"(?s)patches cannot be chosen.*no data sets",
    ),
    "damaged metadata": (
        lambda path: (_array(path), (path / "zarr.json").write_text("{")),
        "cannot be read as zarr",
    ),
    "a damaged chunk": (_damaged, r"(?s)rows of the file cannot be read.*copy the file again"),
    "pickled ids": (_pickled, r"(?s)is pickled.*array ids"),
    "pickled numbers": (_pickled_numbers, r"(?s)cannot be read as zarr.*pickle.*of one array"),
    "a linked chunk": (_linked, r"(?s)is a link.*cp -rL"),
    "a linked folder": (_linked_folder, r"(?s)is a link.*cp -rL"),
    "integers": (
        lambda path: zarr.create_array(path, data=np.zeros((3, 2, 2), "int32")),
        r"(?s)no floating-point.*int32",
    ),
    "no rows": (
        lambda path: zarr.create_array(path, shape=(0, 2, 2), chunks=(1, 2, 2), dtype="f4"),
        "the array is empty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_refused_and_no_store_is_made(tmp_path: Path, case: str) -> None:
    """Every refusal says where, and what to try."""
    make, message = BAD[case]
    make(tmp_path / "f.zarr")
    with pytest.raises(UsageError, match=message) as caught:
        import_features(tmp_path / "f.zarr", tmp_path / "s", PATCHES)
    assert caught.value.hint
    assert not (tmp_path / "s").exists()


def test_chunks_that_are_not_there_are_said(tmp_path: Path) -> None:
    """zarr reads what a cut copy lacks as zeros, without a word."""
    _array(tmp_path / "f.zarr")
    _chunk(tmp_path / "f.zarr", None)
    done, said = said_by(
        lambda context: import_features(
            tmp_path / "f.zarr", tmp_path / "s", PATCHES, context=context
        )
    )
    assert "1 of 3 chunks are not there; zarr reads them as 0.0" in said
    assert (done.zero_rows, done.unusable) == (4, 4)
