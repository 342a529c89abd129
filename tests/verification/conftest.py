"""A store with something of every later stage in it, made once, and copies of it to damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_damage import copied

from feature_world import clustered, make_store
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca

ROWS, UNIT_ROWS = 60, 16


@pytest.fixture(scope="package")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a PCA, indexes, a head and an evaluation; one row is NaN, one is zero."""
    root = tmp_path_factory.mktemp("verify") / "s.fungi"
    vectors, labels = clustered(ROWS, 3, 8)
    kl = vectors.copy()
    vectors[5], kl[7] = np.nan, 0
    blocks = {"embeddings": vectors.astype(np.float16), "gradients/kl": kl}
    make_store(root, blocks, labels, unit_rows=UNIT_ROWS)
    fit_pca(root, PcaOptions(dim=4, name="four"))
    build_index(root, IndexOptions(name="exact"))
    build_index(root, IndexOptions(name="graph", features=("kl",), factory="HNSW8"))
    evaluate_knn(root, KnnOptions(k=3, holdout=0.25)).save(QUIET)
    settings = {"head": "linear", "epochs": 1, "holdout": 0.25, "dtype": "float32", "name": "h"}
    train_loff(root, TrainOptions(**settings))
    return root


@pytest.fixture
def root(full: Path, tmp_path: Path) -> Path:
    return copied(full, tmp_path / "s.fungi")
