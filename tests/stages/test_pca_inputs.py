"""A PCA's coordinates belong to the rows that they were made from, and nobody reads others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_world import clustered, make_store, write_block
from fungistore.errors import MismatchError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.exchange.export import export_features
from fungistore.exchange.options import ExportOptions
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.searching.search import search
from fungistore.store.store import Store

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
