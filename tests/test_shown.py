"""What values show of themselves: in a terminal as text, in a notebook as HTML that is escaped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fungistore as fungi
from feature_world import clustered, make_store
from fungistore.store.store import Store

NASTY = "<b>&'\""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Forty samples of nasty names, in a store of a nasty name."""
    vectors, labels = clustered(40, 4, 6, noise=0.1)
    splits = ["train"] * 20 + ["test"] * 20
    blocks = {"embeddings": vectors, "gradients/kl": vectors}
    return make_store(tmp_path / f"{NASTY}.fungi", blocks, [NASTY + x for x in labels], splits)


def test_values_say_what_they_are(store: Store) -> None:
    """In a line or a few, without fingerprints."""
    fungi.build_index(store.root)
    found = fungi.search(store.root, ["000001.jpg"], fungi.SearchOptions(k=2))
    scores = fungi.evaluate_knn(store.root, fungi.KnnOptions(k=3))
    assert "40 rows, feature sets: set" in repr(store)
    assert "1 answers of 2" in repr(found)
    assert "000001.jpg: 0000" in repr(found)
    assert "knn of set" in repr(scores)
    assert "embeddings + kl: accuracy 1.0000" in repr(scores)
    for text in map(repr, (store, found, scores, fungi.open_features(store))):
        assert len(text) < 700


def test_notebooks_are_shown_tables_without_foreign_markup(store: Store) -> None:
    """Of stores, their status, features, scores and answers."""
    fungi.build_index(store.root)
    values = (
        store,
        fungi.status(store),
        fungi.open_features(store),
        fungi.evaluate_knn(store.root),
        fungi.search(store.root, ["000001.jpg"]),
    )
    for value in values:
        html = value._repr_html_()  # type: ignore[attr-defined]
        assert "<b>" not in html
        assert "<table>" in html or "<iframe" in html
    assert "set</td><td>embeddings</td><td>40 x 6" in store._repr_html_()


def test_a_search_shows_pictures(store: Store, tmp_path: Path) -> None:
    """In a frame of its own, whose style reaches nothing else."""
    fungi.build_index(store.root)
    found = fungi.search(store.root, ["000001.jpg"], fungi.SearchOptions(k=1))
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    (answer,) = found.answers
    shown = replace(found, answers=(replace(answer, root=str(tmp_path), uri="a.png"),))
    html = shown._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert "data:image/jpeg;base64," in html
    assert "<style>" not in html


def test_scores_are_a_data_frame(store: Store) -> None:
    """One row each, with metrics and intervals as numbers."""
    options = fungi.KnnOptions(k=3, combinations="nested")
    scores = fungi.evaluate_knn(store.root, options)
    frame = scores.to_pandas()
    assert len(frame) == len(scores.scores)
    assert frame["features"].tolist() == ["+".join(score.features) for score in scores.scores]
    assert frame["accuracy"].tolist() == [score.metrics["accuracy"] for score in scores.scores]
    for score, (_, row) in zip(scores.scores, frame.iterrows(), strict=True):
        for name, (low, high) in score.spread.items():
            assert (row[f"{name}_low"], row[f"{name}_high"]) == (low, high)
