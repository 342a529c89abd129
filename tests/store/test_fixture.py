"""A store of schema 2.0 that this and every later version opens, verifies and continues.

It is kept as files; tests/fixtures/make_store.py made it. Nothing here may be changed so that a
new version passes.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.linear import evaluate_linear
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.indexing.build import build_index
from fungistore.indexing.opening import open_index
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import PredictOptions
from fungistore.loff.predict import predict_images
from fungistore.machine.context import Context
from fungistore.pca.stage import fit_pca
from fungistore.searching.options import SearchOptions
from fungistore.searching.search import search
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store

sys.path.append(str(Path(__file__).parents[1] / "fixtures"))

import make_store

from feature_world import Notices

ARRAYS = (
    ["embeddings"]
    + [f"gradients/{name}" for name in ("dino", "kl", "simclr")]
    + [f"norms/{name}" for name in ("dino", "kl", "simclr")]
    + ["patches", "pca/four"]
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the store that may be written to."""
    return shutil.copytree(make_store.STORE, tmp_path / "s.fungi")


def test_the_store_is_complete(root: Path) -> None:
    """Every array, setup and artefact of it is as it was written, and nothing else is there."""
    assert Store.open(root).manifest.schema <= SCHEMA_VERSION
    (feature_set,) = status(root).feature_sets
    assert sorted(array.name for array in feature_set.arrays) == sorted(ARRAYS)
    assert {array.rows_done for array in feature_set.arrays} == {12}
    assert verify_store(root).findings == ()


def test_its_numbers_are_those_of_then(root: Path) -> None:
    """The evaluations that were saved give the same scores; indexes and the head are used."""
    for kind, done in (
        ("knn", evaluate_knn(root, make_store.KNN)),
        ("linear", evaluate_linear(root, make_store.LINEAR)),
    ):
        (path,) = (root / "evals").glob(f"{kind}-*.json")
        saved = json.loads(path.read_bytes())["scores"]
        assert [dict(score.metrics) for score in done.scores] == [s["metrics"] for s in saved]
    for name in ("exact", "graph"):
        assert open_index(Store.open(root), name).vectors.count == 12
        (answer,) = search(root, ["china/3.jpg"], SearchOptions(index=name, k=3)).answers
        assert len(answer.neighbours) == 3
    assert 0 <= evaluate_loff(root, LoffOptions(heads=("head",))).scores[0].metrics["accuracy"] <= 1


def test_it_is_continued(root: Path, tmp_path: Path) -> None:
    """Settings that the store froze go on with more images; rows that were there stay."""
    store = Store.open(root)
    before = {name: array.read(0, 12) for name, array in store.arrays("vit").items()}
    key = store.arrays("vit")["embeddings"].fingerprint
    weights = make_store.write_weights(tmp_path / "weights.safetensors")
    config = store.setups.document(key, "options.json") | {"weights": str(weights)}
    images = make_store.lay_out(tmp_path / "images", 9)
    said: list[str] = []
    options = ExtractOptions.from_config(config)
    done = extract(str(images), root, options, context=Context(Notices(said)))
    assert (done.samples, done.units_computed, done.failed) == (18, 2, 0)
    assert any("6 new images after 12 known ones" in line for line in said)
    fit_pca(root, make_store.PCA)
    for index in make_store.INDEXES:
        assert build_index(root, index).added == 6
    for name, array in Store.open(root).arrays("vit").items():
        np.testing.assert_array_equal(array.read(0, 12), before[name])
        assert np.isfinite(array.read(12, 18)).all()
    assert {array.rows_done for array in status(root).feature_sets[0].arrays} == {18}
    query = str(images / "china" / "8.jpg")
    found = search(root, [query], SearchOptions(index="exact", k=1, weights=weights))
    assert found.answers[0].neighbours[0].sample.id == "china/8.jpg"
    settings = PredictOptions(head="head", weights=weights)
    (prediction,) = predict_images(root, [query], settings).predictions
    assert prediction.label in ("china", "flower")
    kinds = {finding.kind for finding in verify_store(root).findings}
    assert kinds <= {"eval-stale"}
