"""A PCA's coordinates belong to the rows that they were made from, and nobody reads others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store, write_block
from fungistore.errors import MismatchError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.exchange.export import export_features
from fungistore.exchange.options import ExportOptions
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca, load_pca
from fungistore.searching.search import search
from fungistore.store.stale import StaleArtefact
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.verify import verify_store

VECTORS, LABELS = clustered(48, 2, 6)
SPLITS = ["train"] * 32 + ["test"] * 16
PCA = PcaOptions(dim=3, name="p")
INDEX = IndexOptions(pca="p", name="i")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three units of embeddings, the last of test rows alone, with a PCA and its index."""
    store = make_store(tmp_path / "s.fungi", {"embeddings": VECTORS}, LABELS, SPLITS)
    fit_pca(store.root, PCA)
    build_index(store.root, INDEX)
    return store


def test_a_pca_of_features_that_were_replaced_is_read_by_nobody(store: Store) -> None:
    """Its coordinates are of other vectors, whatever reads them; --restart fits it anew."""
    store.remove_arrays([store.arrays("set")["embeddings"]])
    write_block(store, "set", "embeddings", np.flip(VECTORS, axis=1).copy(), salt=1)
    root = store.root
    for use in (
        lambda: evaluate_knn(root, KnnOptions(pca="p")),
        lambda: build_index(root, INDEX),
        lambda: build_index(root, IndexOptions(pca="p", name="new")),
        lambda: search(root, ["000001.jpg"]),
        lambda: export_features(root, root.parent / "x.npy", ExportOptions(pca="p")),
    ):
        with pytest.raises(MismatchError, match="that the PCA was fitted to were made anew"):
            use()
    fit_pca(root, PCA, restart=True)
    build_index(root, INDEX, restart=True)
    assert search(root, ["000001.jpg"]).is_stale is False


def test_a_pca_of_features_that_are_gone_can_still_be_read(store: Store) -> None:
    """There is nothing that they could be compared with, and they may come back the same."""
    store.remove_arrays([store.arrays("set")["embeddings"]])
    assert len(search(store.root, ["000001.jpg"]).answers) == 1


def make_anew(store: Store, row: int) -> None:
    """As `verify --repair` drops a damaged unit, and extraction makes it of another image."""
    vectors = VECTORS.copy()
    vectors[row] *= -1
    store.arrays("set")["embeddings"].forget(row // 16)
    write_block(store, "set", "embeddings", vectors)


def kinds(store: Store) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in verify_store(store.root).findings}


def test_coordinates_of_rows_that_were_made_anew_are_made_once_more(store: Store) -> None:
    """Also of rows that the PCA was not fitted on; until then nobody reads them."""
    make_anew(store, 40)
    made = {one.where: one for one in status(store.root).stale}
    assert made["features.zarr/set/pca/p"].arrays == ("set/embeddings",)
    assert made["indexes/set/i"].gone == ("set/pca/p",)
    assert kinds(store) == {"pca-stale": "warning", "index-stale": "warning"}
    assert np.flatnonzero(~open_features(store, pca="p").coverage().usable).tolist() == [
        *range(32, 48)
    ]
    assert fit_pca(store.root, PCA).units_computed == 1
    expected = load_pca(store, "set", "p").transform(open_features(store).read(32, 48))
    assert np.allclose(open_features(store, pca="p").read(32, 48), expected, atol=1e-3)
    assert kinds(store) == {"index-stale": "error"}
    with pytest.raises(MismatchError, match="made anew since"):
        build_index(store.root, INDEX)
    build_index(store.root, INDEX, restart=True)
    assert status(store.root).stale == ()
    assert kinds(store) == {}
    assert fit_pca(store.root, PCA).units_computed == 0


def test_a_search_says_that_rows_are_gone_and_uses_no_chunk_without_a_record(store: Store) -> None:
    """A forgotten unit's chunk is still on the disk, and is nothing."""
    store.arrays("set")["pca/p"].forget(2)
    said: list[str] = []
    found = search(store.root, ["000001.jpg", "000040.jpg"], context=Context(Notices(said)))
    assert found.is_stale
    assert any("rows of set/pca/p that index 'i' has are not there now" in line for line in said)
    assert [failure.query for failure in found.failed] == ["000040.jpg"]
    assert status(store.root).stale == (StaleArtefact("indexes/set/i", (), ("set/pca/p",)),)
    shown = CliRunner().invoke(app, ["status", str(store.root)]).stdout
    assert "indexes/set/i: rows of set/pca/p are not there now" in shown


def test_rows_made_anew_are_noticed_although_others_are_gone(store: Store) -> None:
    """What is there can be compared, whatever is not."""
    make_anew(store, 3)
    fit_pca(store.root, PCA)
    store.arrays("set")["pca/p"].forget(2)
    made = {one.where: one.arrays for one in status(store.root).stale}
    assert made["indexes/set/i"] == ("set/pca/p",)
    assert kinds(store)["index-stale"] == "error"


def test_a_row_made_anew_that_an_index_never_saw_is_no_change_to_it(tmp_path: Path) -> None:
    """Although the unit, and with it the checksum of its first rows, was dropped in between."""
    first = {"embeddings": VECTORS[:40]}
    store = make_store(tmp_path / "s", first, LABELS[:40], SPLITS[:40])
    fit_pca(store.root, PCA)
    build_index(store.root, INDEX)
    store = make_store(store.root, {"embeddings": VECTORS}, LABELS, SPLITS)
    fit_pca(store.root, PCA)
    store.arrays("set")["pca/p"].forget(2)  # as --update does before it writes the rows
    make_anew(store, 45)
    fit_pca(store.root, PCA)
    assert status(store.root).stale == ()
    assert kinds(store) == {}
    assert build_index(store.root, INDEX).added == 8


def test_records_are_read_once_however_many_artefacts_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of many units and evaluations is verified, and its status told, in linear time."""
    for k in (1, 2, 3):
        shown = CliRunner().invoke(app, ["eval", "knn", str(store.root), "--k", str(k)])
        assert shown.exit_code == 0, shown.stderr
    reads: list[str] = []
    commits = UnitArray.commits
    monkeypatch.setattr(
        UnitArray, "commits", lambda array: reads.append(array.name) or commits(array)
    )
    for command in (status, verify_store):
        reads.clear()
        command(store.root)
        assert sorted(reads) == ["set/embeddings", "set/pca/p"]
