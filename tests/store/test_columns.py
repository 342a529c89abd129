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
            "span": pa.array([1, 2], pa.duration("s")),
            "row": ["mine", "yours"],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    source = fungi.open_source(tmp_path / "m.parquet")
    assert source.remarks() == [
        "columns of the manifest that are not kept: 'mask', 'box', 'span'; text in UTF-8, numbers, "
        "truth values and times are, under a name of their own"
    ]
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


def test_no_digit_of_a_csv_is_rounded(tmp_path: Path) -> None:
    """Numbers that a type would round, or has no room for, are text."""
    rows = ("1234567890123456789,1e400,1.5", "12345678901234567891,1,1234567890123456")
    added(tmp_path / "s.fungi", tmp_path / "m.csv", "path,post,p,x\na," + "\nb,".join(rows))
    for place, name in enumerate(("post", "p", "x")):
        found = cells(tmp_path / "s.fungi", name)
        assert found == [row.split(",")[place] for row in rows]
    added(tmp_path / "t.fungi", tmp_path / "m.csv", "path,p,n\na,1e-120,123456789012345678\n")
    assert cells(tmp_path / "t.fungi", "p") == [1e-120]
    assert cells(tmp_path / "t.fungi", "n") == [123456789012345678]


def test_a_column_that_is_not_utf_8_is_left_out(tmp_path: Path) -> None:
    """And named; the manifest is a source all the same."""
    (tmp_path / "m.csv").write_bytes("path,note,n\na,caf\xe9,1\n".encode("latin-1"))
    source = fungi.open_source(tmp_path / "m.csv")
    assert "'note'" in source.remarks()[0]
    added(tmp_path / "s.fungi", tmp_path / "m.csv")
    assert cells(tmp_path / "s.fungi", "n") == [1]
    assert fungi.status(tmp_path / "s.fungi").columns == ("n",)


def test_empty_cells_have_no_type(tmp_path: Path) -> None:
    """A column of them takes the type that later ones have, and leaves the others theirs."""
    place, manifest = tmp_path / "s.fungi", tmp_path / "m.csv"
    added(place, manifest, "path,age\na,\n")
    assert cells(place, "age") == [None]
    assert added(place, manifest, "path,age\na,31\nb,4\n").cells == 1
    added(place, tmp_path / "n.csv", "path,age\nc,\n")
    assert str(Store.open(place).to_pandas()["age"].dtype) == "Int64"
    assert cells(place, "age") == [31, 4, None]
    assert not fungi.verify_store(place).findings


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_empty_text_of_a_parquet_is_missing(tmp_path: Path, kind: pa.DataType) -> None:
    """Whichever type of text its writer chose."""
    table = pa.table({"path": ["a", "b"], "note": pa.array(["", "x"], kind)})
    pq.write_table(table, tmp_path / "m.parquet")
    added(tmp_path / "s.fungi", tmp_path / "m.parquet")
    assert cells(tmp_path / "s.fungi", "note") == [None, "x"]


def test_a_kill_while_cells_are_taken_over_loses_no_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a part that was replaced, and not yet vouched for: the next run does it."""
    place, manifest = tmp_path / "s.fungi", tmp_path / "m.csv"
    added(place, manifest, "path,n\na,1\n")
    with monkeypatch.context() as patch:
        patch.setattr("fungistore.store.samples.SampleTable.sealed", _killed)
        with pytest.raises(KeyboardInterrupt):
            added(place, manifest, "path,n\na,2\n")
    assert Store.open(place).manifest.parts[0].checksum is None
    assert not added(place, manifest).cells
    assert Store.open(place).manifest.parts[0].checksum is not None
    assert cells(place, "n") == [2]


def _killed(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_a_store_without_samples_is_a_frame_of_no_rows(tmp_path: Path) -> None:
    """With the columns that every frame has."""
    frame = Store.open_or_create(tmp_path / "s.fungi").to_pandas()
    assert list(frame.columns) == OWN
    assert not len(frame)


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
    assert not added(place, manifest).cells
    changes = added(place, manifest, "path,n,t\nb,2,\na,7,x\n")
    assert changes.cells == 2
    assert (changes.added, changes.known, changes.changed) == (0, 2, 0)
    assert cells(place, "n") == [7, 2]
    assert cells(place, "t") == ["x", None]
    assert not added(place, manifest).cells
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
