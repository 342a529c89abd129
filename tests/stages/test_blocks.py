"""Feature blocks are normalised, concatenated in the paper's order, and read in bounded parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from feature_world import clustered, make_store, write_block
from fungistore.errors import StoreError, UsageError
from fungistore.matrices import blocks
from fungistore.matrices.blocks import nested, open_features
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.store import Store


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


def test_a_matrix_says_what_it_is_made_of(store, vectors):
    matrix = open_features(store)
    assert (matrix.dim, matrix.rows, matrix.unit_rows) == (16, 100, 16)
    assert matrix.made_of == "L2-normalised, concatenated"
    arrays = store.arrays("set")
    assert matrix.fingerprints == {
        f"set/{name}": arrays[name].fingerprint for name in ("embeddings", "gradients/kl")
    }
    part = matrix.subset(["kl", "other"])
    assert (part.features, part.feature_set, part.store) == (("kl",), "set", store)
    assert [array.name for array in part.arrays] == ["set/gradients/kl"]
    np.testing.assert_array_equal(part.read(5, 9), matrix.read(5, 9)[:, 8:])


def test_a_pca_is_read_as_it_is_stored(store, vectors):
    write_block(store, "set", "pca/p", 3 * vectors[:90])
    matrix = open_features(store, pca="p")
    assert (matrix.features, matrix.made_of, matrix.rows) == (("pca/p",), "stored PCA", 90)
    np.testing.assert_array_equal(matrix.read(0, 90), 3 * vectors[:90])
    with pytest.raises(UsageError, match="both asked for") as caught:
        open_features(store, ["kl"], pca="p")
    assert caught.value.found == "--features kl --pca p"
    with pytest.raises(UsageError, match="no PCA 'q'") as caught:
        open_features(store, pca="q")
    assert caught.value.expected == "p"


def test_rows_come_in_parts_of_whole_units(store, monkeypatch):
    """As many units as fit, one at least; rows asked for do not change where parts end."""
    matrix = open_features(store)  # 16 rows of 16 float32 are a unit: 1024 bytes
    for held, sizes in ((2048, [32, 32, 32, 4]), (2047, [16] * 6 + [4]), (1, [16] * 6 + [4])):
        monkeypatch.setattr(blocks, "STREAM_BYTES", held)
        assert [len(rows) for rows, _ in matrix.stream()] == sizes
    monkeypatch.setattr(blocks, "STREAM_BYTES", 2048)
    wanted = np.array([0, 31, 32, 96])
    found = [(rows.tolist(), len(vectors)) for rows, vectors in matrix.stream(wanted)]
    assert found == [([0, 31], 2), ([32], 1), ([96], 1)]


def test_a_part_without_a_usable_row_is_left_out(tmp_path, vectors, monkeypatch):
    """A row is usable where all of its values are finite, its first and its last too."""
    monkeypatch.setattr(blocks, "STREAM_BYTES", 1)
    vectors[16:32] = np.nan
    vectors[40, 0], vectors[41, -1] = np.inf, np.nan
    matrix = open_features(make_store(tmp_path / "n.fungi", {"embeddings": vectors}, ["a"] * 100))
    parts = [rows.tolist() for rows, _ in matrix.stream()]
    assert parts[:2] == [list(range(16)), [i for i in range(32, 48) if i not in (40, 41)]]
    assert np.isnan(matrix.read(40, 42)).all()


def test_nothing_is_loaded_as_an_empty_matrix(store):
    rows, vectors = open_features(store).load(np.zeros(0, np.int64))
    assert (rows.shape, rows.dtype) == ((0,), np.int64)
    assert (vectors.shape, vectors.dtype) == ((0, 16), np.float32)


def test_a_unit_is_committed_as_far_as_its_shortest_block(tmp_path, vectors):
    arrays = {"embeddings": vectors[:30], "gradients/kl": vectors[:20]}
    store = make_store(tmp_path / "s.fungi", arrays, ["a"] * 100)
    matrix = open_features(store)
    assert [matrix.committed(unit).rows for unit in range(2)] == [16, 4]
    store.arrays("set")["embeddings"].forget(1)
    assert matrix.committed(0) is not None
    assert matrix.committed(1) is None


def test_coverage_counts_missing_and_unreadable_rows_of_any_block(tmp_path, vectors):
    kl = vectors.copy()
    kl[3], kl[60, 1] = np.nan, np.inf
    arrays = {"embeddings": vectors[:70], "gradients/kl": kl}
    coverage = open_features(make_store(tmp_path / "s.fungi", arrays, ["a"] * 100)).coverage()
    assert (coverage.missing, coverage.unreadable) == (30, 2)
    assert np.flatnonzero(~coverage.usable).tolist() == [3, 60, *range(70, 100)]


def test_a_feature_set_is_named_where_there_are_several(store, tmp_path, vectors):
    assert choose_feature_set(store, None) == choose_feature_set(store, "set") == "set"
    with pytest.raises(UsageError, match="no feature set 'x'") as caught:
        choose_feature_set(store, "x")
    assert caught.value.expected == "set"
    write_block(store, "other", "embeddings", vectors)
    with pytest.raises(UsageError, match="more than one feature set") as caught:
        choose_feature_set(store, None)
    assert caught.value.expected == "other, set"
    assert caught.value.hint == "name one with --feature-set"
    empty = make_store(tmp_path / "e.fungi", {}, ["a"])
    with pytest.raises(UsageError, match="has no features yet") as caught:
        choose_feature_set(empty, None)
    assert caught.value.expected is None
    assert "fungi extract" in caught.value.hint


def test_nested_combinations_grow_by_a_block():
    assert nested(["a", "b", "c"]) == [("a",), ("a", "b"), ("a", "b", "c")]


def test_rows_are_divided_by_their_norm_in_place():
    block = np.array([[3, 4], [0, 0], [-5, 12]], np.float32)
    blocks.normalize(block)
    np.testing.assert_allclose(block, [[0.6, 0.8], [0, 0], [-5 / 13, 12 / 13]], rtol=1e-6)


def test_a_matrix_is_indexed_like_an_array(tmp_path: Path) -> None:
    """By numbers, slices, lists, masks and columns; as an array of all rows is."""
    random = np.random.default_rng(0)
    arrays = {
        "embeddings": random.normal(size=(50, 4)),
        "gradients/kl": random.normal(size=(50, 3)),
    }
    arrays["embeddings"][7] = np.nan
    matrix = open_features(make_store(tmp_path / "s.fungi", arrays, ["a"] * 50))
    whole = np.asarray(matrix)
    assert matrix.shape == whole.shape == (len(matrix), matrix.dim) == (50, 7)
    assert matrix.ndim == whole.ndim
    assert matrix.dtype == whole.dtype == np.float32
    assert np.isnan(whole[7]).all()
    np.testing.assert_array_equal(whole, matrix.read(0, 50))
    keys: list[Any] = [
        0, -1, np.int64(7), slice(None), slice(10, 20), slice(40, 5, -3), slice(3, 3),
        [5, 49, 5, 0], np.array([[1, 2], [3, 4]]), np.arange(50) % 7 == 0, (slice(2, 9), 3),
        ([8, 1], slice(0, 2)),
        np.zeros(0, np.int64), (), None, (..., 3), ([8, 1], ...), ([8, 1], [0, 2]), (5, 3),
        np.ix_([3, 9], [0, 2]), (slice(2, 9), None), (None, 3, None, 2), whole > 0,
        (np.arange(50) < 2, [0, 2]), ([8, 1], None, [0, 2]), (slice(9, 2, -1), whole[0] > 0),
    ]  # fmt: skip
    for key in keys:
        np.testing.assert_array_equal(matrix[key], whole[key])
    np.testing.assert_array_equal(list(matrix), whole)
    for bad in (50, -51, [50], "a", 1.5, True, (3, 7), (1, 2, 3), (..., ...), np.ones(49, bool)):
        with pytest.raises(IndexError):
            matrix[bad]
    assert np.array(matrix, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="always a copy"):
        np.array(matrix, copy=False)
    assert "embeddings+kl: 50 x 7 float32" in repr(matrix)


def test_scikit_learn_divides_a_matrix(tmp_path: Path) -> None:
    """As it divides arrays: into training and test rows, and for cross-validation."""
    vectors, labels = clustered(60, 2, 4, noise=0.1)
    matrix = open_features(make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels))
    train, test, _, _ = train_test_split(matrix, labels, random_state=0)
    assert train.shape == (45, 4)
    assert test.shape == (15, 4)
    assert cross_val_score(KNeighborsClassifier(1), matrix, labels, cv=3).tolist() == [1, 1, 1]


def test_rows_to_load_are_numbers_in_order_or_a_mask(store: Store) -> None:
    """Any other order is refused: the rows are streamed."""
    matrix, rows = open_features(store), [3, 20, 90]
    mask = np.isin(np.arange(100), rows)
    for asked in (rows, mask, mask.tolist()):
        numbers, found = matrix.load(asked)
        assert numbers.tolist() == rows
        np.testing.assert_array_equal(found, matrix[rows])
    with pytest.raises(UsageError, match="in the order of the store"):
        matrix.load([90, 3])


def test_features_are_any_iterable_of_names(store: Store) -> None:
    """A generator too; a matrix of no features is refused."""
    assert open_features(store, (name for name in ["kl"])).features == ("kl",)  # type: ignore[arg-type]
    matrix = open_features(store)
    assert matrix.subset(iter(["kl"])).features == ("kl",)  # type: ignore[arg-type]
    for odd in ([], ["simclr"]):
        with pytest.raises(UsageError, match="no such features"):
            matrix.subset(odd)


def test_indexing_reads_no_other_units(tmp_path: Path) -> None:
    """A unit that is damaged hinders nobody who asks for rows of another."""
    store = make_store(tmp_path / "s.fungi", {"embeddings": np.ones((50, 4))}, ["a"] * 50)
    store.arrays("set")["embeddings"].chunk_path(1).write_bytes(b"damaged")
    matrix = open_features(store)
    assert matrix[[0, 15, 33]].shape == (3, 4)
    with pytest.raises(StoreError):
        matrix[16]


def test_one_text_is_no_list_of_features(tmp_path: Path) -> None:
    """Its letters are none of them: the error says what to write."""
    store = make_store(tmp_path / "s.fungi", {"embeddings": np.ones((5, 4))}, ["a"] * 5)
    with pytest.raises(UsageError, match="features is a list") as refused:
        open_features(store, "embeddings,kl")
    assert refused.value.expected == "features=['embeddings', 'kl']"
