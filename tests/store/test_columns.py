"""The columns of a manifest are kept with the samples, and a store is a data frame."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fungistore as fungi
from feature_world import ListSource, clustered, make_store
from fungistore.errors import UsageError
from fungistore.location import path_to_uri
from fungistore.sources.sample import Sample
from fungistore.store.failures import Failure
from fungistore.store.listing import add_source
from fungistore.store.store import Store

TABLE = """path,label,age,weight,adult,code,note,bytes
a.jpg,cat,7,1,true,007,"one, two",1
b.jpg,dog,-12,2.5,False,010,,2
c.jpg,,,,,,,3
"""
OWN = ["row", "id", "path", "label", "label_number", "split", "failed"]


def added(place: Path, manifest: Path, text: str | None = None) -> Any:
    """Write a manifest, and add it to the store at a place; returns what has changed."""
    if text is not None:
        manifest.write_text(text)
    return add_source(Store.open_or_create(place), fungi.open_source(manifest))


def cells(place: Path, name: str) -> list[Any]:
    return [None if pd.isna(c) else c for c in Store.open(place).to_pandas()[name].tolist()]


def test_a_csvs_columns_keep_their_types(tmp_path: Path) -> None:
    """Numbers, truth values and text; 007 is text; what is empty is missing."""
    added(tmp_path / "s.fungi", tmp_path / "m.csv", TABLE)
    frame = Store.open(tmp_path / "s.fungi").to_pandas()
    assert list(frame.columns) == [*OWN, "age", "weight", "adult", "code", "note", "bytes"]
    assert str(frame["age"].dtype) == "Int64"
    assert str(frame["adult"].dtype) == "boolean"
    assert frame["weight"].dtype == float
    assert cells(tmp_path / "s.fungi", "age") == [7, -12, None]
    assert cells(tmp_path / "s.fungi", "weight") == [1.0, 2.5, None]
    assert cells(tmp_path / "s.fungi", "adult") == [True, False, None]
    assert cells(tmp_path / "s.fungi", "code") == ["007", "010", None]
    assert cells(tmp_path / "s.fungi", "note") == ["one, two", None, None]
    assert fungi.status(tmp_path / "s.fungi").columns == (
        "age",
        "weight",
        "adult",
        "code",
        "note",
        "bytes",
    )
    assert not fungi.verify_store(tmp_path / "s.fungi").findings


def test_a_parquets_columns_keep_their_types(tmp_path: Path) -> None:
    """Times become text; bytes and lists are left out, and named."""
    table = pa.table(
        {
            "path": ["a.jpg", "b.jpg"],
            "count": pa.array([1, None], pa.int32()),
            "share": pa.array([0.5, 2], pa.float32()),
            "good": [True, False],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "when": pa.array([0, 1], pa.timestamp("s")),
            "mask": [b"1", b"2"],
            "box": [[1, 2], [3]],
            "row": ["mine", "yours"],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    source = fungi.open_source(tmp_path / "m.parquet")
    assert source.remarks() == ["columns of the manifest that are not kept: 'mask', 'box'"]
    added(tmp_path / "s.fungi", tmp_path / "m.parquet")
    frame = Store.open(tmp_path / "s.fungi").to_pandas()
    assert list(frame.columns[len(OWN) :]) == [
        "count",
        "share",
        "good",
        "kind",
        "when",
        "column.row",
    ]
    assert frame["good"].tolist() == [True, False]
    assert frame["kind"].tolist() == ["x", "y"]
    assert frame["when"][1].startswith("1970-01-01 00:00:01")
    assert frame["row"].tolist() == [0, 1]


def test_other_columns_join_as_a_store_grows(tmp_path: Path) -> None:
    """A part has the columns of its time; a type that widens holds what was there."""
    place = tmp_path / "s.fungi"
    added(place, tmp_path / "m.csv", "path,n,old\na,1,x\n")
    changes = added(place, tmp_path / "m.csv", "path,n,new\na,1,p\nb,2.5,q\n")
    assert changes.added == 1
    assert cells(place, "n") == [1.0, 2.5]
    assert cells(place, "old") == ["x", None]
    assert cells(place, "new") == ["p", "q"]
    added(place, tmp_path / "m.csv", "path,n\na,1\nb,2.5\nc,many\n")
    assert cells(place, "n") == ["1", "2.5", "many"]
    assert fungi.status(place).columns == ("n", "old", "new")
    assert not fungi.verify_store(place).findings


def test_cells_are_the_sources(tmp_path: Path) -> None:
    """Run again with other cells, they are taken over and counted; the same ones are no change."""
    place, manifest = tmp_path / "s.fungi", tmp_path / "m.csv"
    added(place, manifest, "path,n,t\na,1,x\nb,2,y\n")
    assert not added(place, manifest).changed_cells
    changes = added(place, manifest, "path,n,t\nb,2,\na,7,x\n")
    assert set(changes.changed_cells) == {0, 1}
    assert (changes.added, changes.known, changes.changed) == (0, 2, 0)
    assert cells(place, "n") == [7, 2]
    assert cells(place, "t") == ["x", None]
    assert not added(place, manifest).changed_cells
    assert not fungi.verify_store(place).findings


def test_a_store_from_before_gets_the_columns(tmp_path: Path) -> None:
    """Its table has none; the same manifest again fills them in, and recomputes nothing."""
    place = tmp_path / "s.fungi"
    store = Store.open_or_create(place)

    class Old(ListSource):
        root = str(tmp_path)

    add_source(store, Old([Sample("a", "a"), Sample("b", "b")]))
    assert store.to_pandas().columns.tolist() == OWN
    changes = added(place, tmp_path / "m.csv", "path,n\na,1\nb,2\n")
    assert changes.changed == changes.added == 0
    assert cells(place, "n") == [1, 2]


def test_a_data_frame_says_who_each_row_is(tmp_path: Path) -> None:
    """Whole paths of any spelling, names and numbers of labels, splits, failures."""
    vectors, labels = clustered(4, 2, 3)
    store = make_store(tmp_path / "s", {"embeddings": vectors}, [*labels[:3], None], [*"aab", None])
    odd = "100% #1.jpg"
    uris = [odd, path_to_uri("a\udcff.jpg"), "t.tar#offset=512&size=3&ext=jpg", "data:,hi"]
    add_source(store, ListSource([Sample(f"x{i}", uri) for i, uri in enumerate(uris)]))
    store.add_failures([Failure(1, "u", "ImageError", "broken", "set")])
    frame = Store.open(store.root).to_pandas()
    assert frame["row"].tolist() == list(range(8))
    assert frame["path"][0] == "/nowhere/000000.jpg"
    assert frame["path"][4] == f"/nowhere/{odd}"
    assert frame["path"][5] == "bytes:/nowhere/a%FF.jpg"
    assert frame["path"][6] == "/nowhere/t.tar#offset=512&size=3&ext=jpg"
    assert pd.isna(frame["path"][7])
    assert frame["label"].tolist()[:3] == labels[:3]
    assert pd.isna(frame["label"][3])
    assert frame["label_number"].tolist() == [0, 1, 0, -1, -1, -1, -1, -1]
    assert frame["split"].tolist()[:3] == list("aab")
    assert frame["failed"].tolist() == [False, True, *[False] * 6]


def test_an_empty_store_is_an_empty_frame(tmp_path: Path) -> None:
    """With the columns that any store has."""
    assert len(Store.open_or_create(tmp_path / "s").to_pandas()) == 0


def test_without_pandas_what_to_install_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is optional, and everything else does without it."""
    store = Store.open_or_create(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="need pandas") as absent:
        store.to_pandas()
    assert str(absent.value.hint).startswith("pip install 'pandas>=")
