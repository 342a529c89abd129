"""`fungi label` corrects labels and splits by id, and touches nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

import fungistore as fungi
from feature_world import ListSource, clustered, make_store
from fungistore.errors import UsageError
from fungistore.sources.sample import Sample
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    vectors, labels = clustered(6, 2, 4)
    splits = ["train", "test"] * 3
    return make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels, splits)


def table(place: Path, text: str, name: str = "t.csv") -> Path:
    path = place / name
    path.write_text(text)
    return path


def said(store: Store) -> list[tuple[str | None, str | None]]:
    again = Store.open(store.root)
    names = again.manifest.labels
    rows = again.samples.rows(0, len(again.samples))
    return [(None if r["label"] is None else names[r["label"]], r["split"]) for r in rows]


def test_labels_splits_and_columns_are_corrected_by_id(store: Store, tmp_path: Path) -> None:
    """An empty cell empties; a column that is absent is left alone; new classes follow the old."""
    before = said(store)
    text = "id,label,age\n000000.jpg,fox,3\n000001.jpg,,\n000002.jpg,class 0,4\n"
    done = fungi.label(store.root, table(tmp_path, text))
    assert (done.rows, done.unknown, done.labels, done.splits, done.cells) == (3, 0, 2, 0, 2)
    assert done.examples == ("000000.jpg: class 0 -> fox", "000001.jpg: class 1 -> none")
    assert done.new_classes == ("fox",)
    expected = [("fox", "train"), (None, "test"), *before[2:]]
    assert said(store) == expected
    assert Store.open(store.root).manifest.labels == ("class 0", "class 1", "fox")
    assert Store.open(store.root).to_pandas()["age"].tolist()[:3:2] == [3, 4]
    assert not verify_store(store.root).findings
    moved = fungi.label(store.root, table(tmp_path, "path;Subset\n000005.jpg;Training\n"))
    assert (moved.labels, moved.splits) == (0, 1)
    assert said(store) == [*expected[:5], (before[5][0], "train")]


@pytest.mark.parametrize("name", ["label_name", "label"])
def test_what_was_exported_and_corrected_corrects(store: Store, tmp_path: Path, name: str) -> None:
    """Class names count, beside numbers that belong to others now; no other column is a new one."""
    before = said(store)
    frame = Store.open(store.root).to_pandas()
    if name == "label_name":
        fungi.export_features(store.root, tmp_path / "o.parquet")
        frame = pd.read_parquet(tmp_path / "o.parquet")
    frame.loc[0, name] = "class 1"
    frame.to_csv(tmp_path / "t.csv", index=False)
    done = fungi.label(store.root, tmp_path / "t.csv")
    assert (done.rows, done.labels, done.splits, done.new_classes) == (6, 1, 0, ())
    assert said(store) == [("class 1", "train"), *before[1:]]
    columns = Store.open(store.root).samples.columns()
    assert not columns.keys() & {"row", "label", "label_number", "failed"}


def test_unknown_ids_are_refused_unless_they_are_skipped(store: Store, tmp_path: Path) -> None:
    """And nothing is written; a table without a known id is never what was meant."""
    before = said(store)
    path = table(tmp_path, "id,label\n000000.jpg,fox\nnone.jpg,fox\n")
    with pytest.raises(UsageError, match="1 row is of ids") as refused:
        fungi.label(store.root, path)
    assert "--unknown skip" in str(refused.value)
    assert "000000.jpg" in str(refused.value)
    assert said(store) == before
    done = fungi.label(store.root, path, fungi.LabelOptions(unknown="skip"))
    assert (done.rows, done.unknown, done.labels) == (1, 1, 1)
    others = table(tmp_path, "id,label\nnone.jpg,fox\n")
    with pytest.raises(UsageError, match="does not know"):
        fungi.label(store.root, others, fungi.LabelOptions(unknown="skip"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("id,label\n000000.jpg,a\n000000.jpg,b\n", "more than once"),
        ("label\nfox\n", "columns cannot be used"),
        ("id\n000000.jpg\n", "corrects nothing"),
        ("id,label\n,fox\n", "no id"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(
    store: Store, tmp_path: Path, text: str, what: str
) -> None:
    """Whatever it says, the store stays as it was."""
    before = (store.root / "store.json").read_bytes(), said(store)
    with pytest.raises(UsageError, match=what):
        fungi.label(store.root, table(tmp_path, text))
    assert ((store.root / "store.json").read_bytes(), said(store)) == before


def test_a_dry_run_tells_the_same_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    """As JSON too; the command itself then does what it said."""
    before = said(store)
    path = table(tmp_path, "id,label\n000000.jpg,fox\n")
    command = ["label", str(store.root), str(path), "--json"]
    told = CliRunner().invoke(app, [*command, "--dry-run"])
    assert told.exit_code == 0, told.output
    assert said(store) == before
    done = CliRunner().invoke(app, command)
    assert json.loads(done.stdout) == json.loads(told.stdout) | {"dry_run": False}
    assert said(store)[0] == ("fox", "train")
    again = CliRunner().invoke(app, command[:-1])
    assert "changed: nothing" in again.stdout


def test_a_source_without_labels_leaves_corrections_alone(store: Store, tmp_path: Path) -> None:
    """A list of paths knows none; one that has labels says what they are, at its next run."""
    fungi.label(store.root, table(tmp_path, "id,label,split\n000000.jpg,fox,val\n"))
    names = [f"{row:06d}.jpg" for row in range(6)]
    assert add_source(Store.open(store.root), ListSource([Sample(n, n) for n in names])).labels == 0
    assert said(store)[0] == ("fox", "val")
    manifest = table(tmp_path, "path,label\n000000.jpg,cat\n", "m.csv")
    changes = add_source(Store.open(store.root), fungi.open_source(manifest))
    assert (changes.labels, changes.splits) == (1, 0)
    assert said(store)[0] == ("cat", "val")
