"""Feature blocks are normalised, concatenated in the paper's order, and read in bounded parts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from feature_world import clustered, make_store, write_block
from fungistore.errors import StoreError, UsageError
from fungistore.matrices import blocks
from fungistore.matrices.blocks import open_features


@pytest.fixture
def vectors():
    return clustered(100, 4, 8)[0]


@pytest.fixture
def store(tmp_path, vectors):
    arrays = {"gradients/kl": vectors[:, ::-1] * 3, "embeddings": vectors, "patches": vectors}
    return make_store(tmp_path / "s.fungi", arrays, [f"c{i % 4}" for i in range(100)])


def test_blocks_are_normalised_and_in_the_papers_order(store, vectors):
    matrix = open_features(store)
    assert matrix.features == ("embeddings", "kl")
    expected = np.hstack([normalize(vectors), normalize(vectors[:, ::-1])])
    np.testing.assert_allclose(matrix.read(0, 100), expected, rtol=0, atol=1e-6)


def test_the_order_asked_for_does_not_matter(store):
    assert open_features(store, ["kl", "embeddings"]).name == "embeddings+kl"


def test_a_row_of_zeros_stays_zero(tmp_path, vectors):
    vectors[3] = 0
    store = make_store(tmp_path / "z.fungi", {"embeddings": vectors}, ["a"] * 100)
    assert not open_features(store).read(3, 4).any()


def test_only_usable_rows_are_streamed_and_the_others_are_counted(tmp_path, vectors):
    kl = vectors[:90].copy()
    vectors[5], kl[5, 0], kl[40, 2] = np.nan, np.nan, np.inf
    arrays = {"embeddings": vectors, "gradients/kl": kl}
    matrix = open_features(make_store(tmp_path / "n.fungi", arrays, ["a"] * 100))
    coverage = matrix.coverage()
    assert (coverage.missing, coverage.unreadable) == (10, 2)
    usable = np.flatnonzero(coverage.usable)
    assert usable.tolist() == [i for i in range(90) if i not in (5, 40)]
    rows, found = matrix.load()
    assert rows.tolist() == usable.tolist()
    assert np.isfinite(found).all()


def test_rows_asked_for_are_the_rows_returned(store):
    matrix = open_features(store)
    wanted = np.array([0, 17, 18, 63, 99])
    rows, found = matrix.load(wanted)
    assert rows.tolist() == wanted.tolist()
    np.testing.assert_array_equal(found, matrix.read(0, 100)[wanted])


def test_units_without_a_wanted_row_are_not_read(store, monkeypatch):
    monkeypatch.setattr(blocks, "STREAM_BYTES", 1)
    store.arrays("set")["embeddings"].chunk_path(2).write_bytes(b"damaged")
    matrix = open_features(store, ["embeddings"])
    assert matrix.load(np.array([0, 31, 48]))[0].tolist() == [0, 31, 48]
    with pytest.raises(StoreError, match="a chunk is damaged"):
        matrix.load(np.array([33]))


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        ({"features": ["dino"]}, "embeddings, kl"),
        ({"feature_set": "other"}, "set"),
        ({"pca": "p"}, "none was fitted yet"),
    ],
)
def test_an_unknown_name_lists_what_exists(store, arguments, listed):
    with pytest.raises(UsageError) as caught:
        open_features(store, **arguments)
    assert caught.value.expected == listed


def test_several_feature_sets_want_a_choice(store, vectors):
    write_block(store, "second", "embeddings", vectors)
    with pytest.raises(UsageError, match="more than one feature set"):
        open_features(store)
    assert open_features(store, feature_set="second").feature_set == "second"


@pytest.mark.parametrize("scale", [1e20, 3e38, 1e-20, 1e-25, 1e-38])
def test_rows_whose_squares_have_no_room_are_normalised(scale):
    """Squares of 1e20 are infinite in float32, those of 1e-25 are zero: the direction stays."""
    rows = np.random.default_rng(0).uniform(-1, 1, (6, 9)).astype(np.float32)
    rows[2], rows[3, 4], rows[4, 1] = 0, np.nan, np.inf
    expected = rows.copy()
    large = (rows.astype(np.float64) * scale).astype(np.float32)
    with np.errstate(invalid="ignore"):
        blocks.normalize(expected)
        blocks.normalize(large)
    np.testing.assert_allclose(large[[0, 1, 5]], expected[[0, 1, 5]], rtol=1e-5)
    assert not large[2].any()
    assert np.isnan(large[[3, 4]]).any(axis=1).all()
    np.testing.assert_allclose(np.linalg.norm(large[[0, 1, 5]], axis=1), 1, rtol=1e-5)
