"""Nearest neighbours are those of float64 arithmetic, ties to the smaller row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from fungistore.matrices import neighbours
from fungistore.matrices.neighbours import nearest, nearest_rows


def brute(queries, vectors, k):
    """Squares of differences in float64, sorted by (distance, row)."""
    difference = queries[:, None].astype(np.float64) - vectors[None]
    squared = (difference**2).sum(axis=2)
    rows = np.broadcast_to(np.arange(len(vectors)), squared.shape)
    order = np.lexsort((rows, squared), axis=-1)[:, :k]
    return order, np.sqrt(np.take_along_axis(squared, order, 1))


def blocks(vectors, size):
    return [
        (np.arange(start, min(start + size, len(vectors))), vectors[start : start + size])
        for start in range(0, len(vectors), size)
    ]


def gaussian(count, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


@pytest.mark.parametrize("size", [10_000, 3000, 77])
def test_neighbours_equal_brute_force_whatever_the_blocks(size):
    vectors, queries = gaussian(9000, 16), gaussian(50, 16, seed=1)
    rows, distances = brute(queries, vectors, 20)
    found = nearest(queries, blocks(vectors, size), 20)
    assert np.array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    unordered = nearest_rows(queries, blocks(vectors, size), 20)
    assert np.array_equal(np.sort(unordered, axis=1), np.sort(rows, axis=1))


def test_neighbours_equal_scikit_learn():
    vectors, queries = gaussian(5000, 64), gaussian(200, 64, seed=1)
    oracle = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(vectors)
    assert np.array_equal(
        nearest(queries, blocks(vectors, 1000), 20).rows,
        oracle.kneighbors(queries, return_distance=False),
    )


def test_scores_are_exact_beside_code_that_multiplies_coarsely():
    """torch's process-wide precision may be anything: while blocks are compared it is float32's.

    Not every machine multiplies differently then, so the setting is what is looked at.
    """
    vectors, seen = gaussian(400, 16), []

    class Database:
        def __iter__(self):
            for block in blocks(vectors, 100):
                seen.append(torch.backends.mkldnn.matmul.fp32_precision)
                yield block

    torch.set_float32_matmul_precision("medium")
    try:
        nearest_rows(vectors[:3], Database(), 5)
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen[:4] == ["ieee"] * 4


def test_near_ties_beyond_float32_are_told_apart():
    """Far from the origin float32 scores lose all digits that matter; the result does not."""
    vectors = (gaussian(4000, 8) * 1e-3 + 50).astype(np.float32)
    queries = vectors[:64]
    rows, _ = brute(queries, vectors, 5)
    assert np.array_equal(nearest(queries, blocks(vectors, 1500), 5).rows, rows)
    unordered = nearest_rows(queries, blocks(vectors, 1500), 5)
    assert np.array_equal(np.sort(unordered, axis=1), np.sort(rows, axis=1))


def test_among_duplicates_the_smaller_rows_win():
    vectors = np.repeat(gaussian(3, 12), 100, axis=0)
    found = nearest(vectors[[0, 250]], blocks(vectors, 64), 20)
    assert found.rows.tolist() == [list(range(20)), list(range(200, 220))]
    assert not found.distances.any()
    assert np.sort(nearest_rows(vectors[[250]], blocks(vectors, 64), 20)).tolist() == [
        list(range(200, 220))
    ]


def test_row_numbers_are_those_of_the_blocks():
    vectors = gaussian(40, 4)
    database = [(np.arange(40) * 10 + 5, vectors)]
    assert nearest(vectors[:3], database, 1).rows[:, 0].tolist() == [5, 15, 25]


def test_k_may_be_the_whole_database_but_no_more():
    vectors = gaussian(8, 4)
    assert np.sort(nearest_rows(vectors, blocks(vectors, 3), 8)).tolist() == [list(range(8))] * 8
    with pytest.raises(ValueError, match="no 9 nearest"):
        nearest(vectors, blocks(vectors, 3), 9)


def test_more_queries_than_are_held_at_a_time(monkeypatch):
    vectors, queries = gaussian(300, 8), gaussian(100, 8, seed=1)
    expected = nearest(queries, blocks(vectors, 300), 5)
    monkeypatch.setattr(neighbours, "QUERY_BYTES", 4 * 8 * 7)
    monkeypatch.setattr(neighbours, "TILE_SCORES", 1000)
    found = nearest(queries, blocks(vectors, 300), 5)
    assert np.array_equal(found.rows, expected.rows)


def scenes(count, of_each, dim, seed=0):
    """Unit vectors in scenes: cosines of 0.998 within one, more near ties than float32 can tell."""
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(count, dim)), of_each, axis=0)
    vectors = centres + 0.04 * random.normal(size=centres.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("copies", [1, 60])
def test_crowds_of_near_duplicates_are_told_apart_by_a_product(monkeypatch, copies):
    """More near ties than candidates: a float64 product finds them, not a loop over queries."""
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 100)
    monkeypatch.setattr(neighbours, "EXACT_SCORES", 700)
    vectors = np.repeat(scenes(3, 360 // copies, 512), copies, axis=0)
    queries = vectors[::47]
    rows, distances = brute(queries, vectors, 5)
    asked = []
    product = neighbours._exhaustive
    monkeypatch.setattr(neighbours, "_exhaustive", lambda *all: asked.append(all) or product(*all))
    found = nearest(queries, blocks(vectors, 170), 5)
    assert np.array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    unordered = nearest_rows(queries, blocks(vectors, 170), 5)
    assert np.array_equal(np.sort(unordered, axis=1), np.sort(rows, axis=1))
    assert len(asked[0][0]) == len(queries)


def test_of_a_crowd_of_equal_rows_only_the_first_are_measured(monkeypatch):
    """Copies of one image cannot all be neighbours, and cost no more than others do."""
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 500)
    vectors = np.concatenate([gaussian(200, 16), np.repeat(gaussian(1, 16, seed=2), 2000, axis=0)])
    numbers = np.random.default_rng(0).permutation(len(vectors))
    database = [(numbers, vectors)]
    measured = []
    differences = neighbours._differences
    monkeypatch.setattr(
        neighbours, "_differences", lambda *all: measured.append(all[1]) or differences(*all)
    )
    found = nearest(vectors[-10:], database, 5)
    assert np.array_equal(found.rows, np.tile(np.sort(numbers[200:])[:5], (10, 1)))
    assert not found.distances.any()
    assert sum(map(len, measured)) <= 10 * 5 * 6


@pytest.mark.parametrize("scale", [1e20, 1e-19, 1e-25])
@pytest.mark.parametrize("count", [20, 400])
def test_vectors_whose_squares_have_no_room_have_neighbours(scale, count):
    """Squares of 1e20 are infinite in float32, those of 1e-25 are zero."""
    vectors = (gaussian(count, 12).astype(np.float64) * scale).astype(np.float32)
    vectors[5] = 0
    rows, distances = brute(vectors[:9], vectors, 4)
    found = nearest(vectors[:9], blocks(vectors, 130), 4)
    assert np.array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    unordered = nearest_rows(vectors[:9], blocks(vectors, 130), 4)
    assert np.array_equal(np.sort(unordered, axis=1), np.sort(rows, axis=1))


@pytest.mark.parametrize(("scale", "length"), [(1e-23, 1), (1e-20, 1), (1e-30, 1e10)])
def test_tiny_vectors_are_compared_with_far_longer_queries(scale, length):
    """Their squares are lost in float32, their differences in float64: there, all are as near."""
    vectors = (gaussian(300, 32).astype(np.float64) * scale).astype(np.float32)
    queries = (gaussian(5, 32, seed=1) * length).astype(np.float32)
    rows, distances = brute(queries, vectors, 10)
    found = nearest(queries, blocks(vectors, 70), 10)
    assert np.array_equal(found.rows, rows)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    unordered = nearest_rows(queries, blocks(vectors, 70), 10)
    assert np.array_equal(np.sort(unordered, axis=1), np.sort(rows, axis=1))
