"""Rows whose file is gone from the source are left out, wherever rows are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fungistore as fungi
from feature_world import ListSource, Notices, clustered, make_store
from fungistore.errors import MismatchError
from fungistore.machine.context import Context
from fungistore.sources.sample import Sample
from fungistore.store.listing import add_source
from fungistore.store.removed import GONE, write_removed
from fungistore.store.store import Store

COUNT, CLASSES = 60, 3
LOST = np.array([0, 1, 17, 40, 59])  # two of the test split among them


@pytest.fixture
def vectors():
    return clustered(COUNT, CLASSES, 8, noise=2.0)


@pytest.fixture
def store(tmp_path, vectors) -> Store:
    made, labels = vectors
    store = make_store(tmp_path / "s.fungi", {"embeddings": made}, labels, splits(COUNT))
    write_removed(store.folder(), LOST)
    return store


def splits(count: int) -> list[str]:
    return ["test" if row % 4 == 0 else "train" for row in range(count)]


def test_an_evaluation_is_that_of_a_store_without_them(tmp_path, store, vectors) -> None:
    """Score for score; how many were left out is said, and --keep-removed takes them."""
    made, labels = vectors
    kept = np.setdiff1d(np.arange(COUNT), LOST)
    chosen = [splits(COUNT)[row] for row in kept]
    other = make_store(
        tmp_path / "o.fungi", {"embeddings": made[kept]}, [labels[row] for row in kept], chosen
    )
    for options, evaluate in (
        (fungi.KnnOptions(k=3), fungi.evaluate_knn),
        (fungi.ClusterOptions(), fungi.evaluate_cluster),
        (fungi.RetrievalOptions(), fungi.evaluate_retrieval),
    ):
        done = evaluate(store.root, options)
        expected = evaluate(other.root, options)
        assert done.scores[0].metrics == pytest.approx(expected.scores[0].metrics)
        assert done.scores[0].n_test == expected.scores[0].n_test
        assert done.excluded[GONE] == len(LOST)
        all_of_them = evaluate(store.root, replace(options, keep_removed=True))
        assert GONE not in all_of_them.excluded


def test_a_pca_is_fitted_without_them(store) -> None:
    """Their coordinates are there: they may be wanted again."""
    done = fungi.fit_pca(store.root, fungi.PcaOptions(dim=2, fit_split="all", name="p"))
    assert done.fit["rows"] == COUNT - len(LOST)
    assert done.rows == COUNT
    kept = fungi.PcaOptions(dim=2, fit_split="all", name="q", keep_removed=True)
    assert fungi.fit_pca(store.root, kept).fit["rows"] == COUNT


def test_a_dataset_counts_them(store) -> None:
    """Unless the store was opened to use them."""
    dataset = store.dataset("embeddings")
    assert dataset.left_out == {"rows without usable features": 0, GONE: len(LOST)}
    assert not np.isin(dataset.rows, LOST).any()
    assert len(Store.open(store.root, keep_removed=True).dataset("embeddings")) == COUNT


def test_an_index_leaves_them_out_until_they_are_back(store) -> None:
    """A row that comes back is added; one that goes later is not found any more."""
    built = fungi.build_index(store.root)
    assert (built.index.vectors, built.to_json()["removed"]) == (COUNT - len(LOST), len(LOST))
    write_removed(store.folder(), np.array([0, 5, 6, 7, 8]))
    again = fungi.build_index(store.root)
    assert (again.added, again.to_json()["removed"]) == (len(LOST) - 1, 1)
    query = "000009.jpg"
    found = [n.sample.row for n in fungi.search(store.root, query).answers[0].neighbours]
    assert len(found) == 10
    assert not {0, 5, 6, 7, 8} & set(found)
    options = fungi.SearchOptions(k=59, keep_removed=True)
    kept = [n.sample.row for n in fungi.search(store.root, query, options).answers[0].neighbours]
    assert {5, 6, 7, 8} < set(kept)  # 0 was never indexed
    assert [row for row in kept if row not in {5, 6, 7, 8}][:10] == found
    write_removed(store.folder(), np.zeros(0, np.int64))
    assert fungi.build_index(store.root).index.vectors == COUNT


def linear(name: str, **changes: object) -> fungi.TrainOptions:
    quick = {"head": "linear", "epochs": 1, "batch_size": 16, "dtype": "float32"}
    return fungi.TrainOptions(**(quick | changes), name=name)


def test_a_head_is_tested_on_what_is_there(store) -> None:
    """Rows of its training, or of its test, may go later: what it has learnt is known all the same.

    Rows that were gone when it was trained and are back are others than those of its training.
    """
    trained = fungi.train_loff(store.root, linear("h"))
    assert trained.excluded[GONE] == len(LOST)
    everything = np.zeros(0, np.int64)
    write_removed(store.folder(), everything)
    with pytest.raises(MismatchError, match="trained on other rows"):
        fungi.evaluate_loff(store.root, fungi.LoffOptions(heads=("h",)))
    fungi.train_loff(store.root, linear("all"))
    write_removed(store.folder(), LOST)  # 0, 40 of them are of the test split
    later = fungi.evaluate_loff(store.root, fungi.LoffOptions(heads=("all",)))
    kept = fungi.LoffOptions(heads=("all",), keep_removed=True)
    assert (later.scores[0].n_test, later.excluded[GONE]) == (13, 2)
    assert fungi.evaluate_loff(store.root, kept).scores[0].n_test == 15


def test_labels_of_its_training_that_were_corrected_make_a_head_refuse(tmp_path, vectors) -> None:
    """Nobody knows what it has learnt; neighbours take the labels of today."""
    made, labels = vectors
    store = make_store(tmp_path / "s.fungi", {"embeddings": made}, labels, splits(COUNT))
    fungi.train_loff(store.root, linear("h"))
    before = fungi.evaluate_knn(store.root, fungi.KnnOptions(k=1)).scores[0].metrics["accuracy"]
    names = [f"{row:06d}.jpg" for row in range(COUNT)]
    # every label of the test split is another now
    other = {name: f"class {(number + 1) % 3}" for number, name in enumerate(sorted(set(labels)))}
    rows = zip(names, labels, splits(COUNT), strict=True)
    samples = [Sample(n, n, other[w] if s == "test" else w, s) for n, w, s in rows]
    assert add_source(store, ListSource(samples)).labels == splits(COUNT).count("test")
    after = fungi.evaluate_knn(store.root, fungi.KnnOptions(k=1)).scores[0].metrics["accuracy"]
    assert after < before
    fungi.evaluate_loff(store.root, fungi.LoffOptions(heads=("h",)))  # trained on the same
    samples[1] = replace(samples[1], label=other[labels[1]])
    add_source(store, ListSource(samples))
    with pytest.raises(MismatchError, match="trained on other rows"):
        fungi.evaluate_loff(store.root, fungi.LoffOptions(heads=("h",)))


def test_a_search_says_how_many_are_not_looked_for(store) -> None:
    """On the way; the answers are the others."""
    said: list[str] = []
    fungi.build_index(store.root)
    fungi.search(store.root, "000009.jpg", context=Context(reporter=Notices(said)))
    assert any(f"{len(LOST)} rows whose file is gone" in line for line in said)
