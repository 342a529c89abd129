"""Exact nearest neighbours against scikit-learn's brute force and the bare matrix product.

    python benchmarks/knn.py
    python benchmarks/knn.py --near-duplicates

50,000 training and 10,000 test vectors of 512 numbers, k = 20, as `fungi eval knn` classifies
them. The floor is the float32 product of all pairs, in tiles of the same size into one buffer.
Contenders alternate; medians of the rounds and their ratios count, not the times.

With --near-duplicates, 100,000 vectors of 768 numbers in scenes of 100 with cosines of 0.9982,
where float32 cannot tell the neighbours apart; the rival takes queries one by one, in float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from fungistore.evaluation.knn import vote
from fungistore.matrices.neighbours import TILE_SCORES, nearest_rows

TRAIN, TEST, DIM, CLASSES, K = 50_000, 10_000, 512, 100, 20
SCENE_ROWS, SCENE_QUERIES, SCENE_DIM, OF_SCENE, SCENE_COSINE = 100_000, 1000, 768, 100, 0.9982
ALONE = 8  # queries that go one by one


def main() -> None:
    """Print a line for each contender, and whether the predictions are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--near-duplicates", action="store_true")
    options = parser.parse_args()
    rounds = options.rounds
    if options.near_duplicates:
        near_duplicates(rounds)
        return
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, TRAIN).astype(np.int32)
    centres = random.normal(size=(CLASSES, DIM))
    train = features(centres[labels] + 3 * random.normal(size=(TRAIN, DIM)))
    test = features(
        centres[random.integers(0, CLASSES, TEST)] + 3 * random.normal(size=(TEST, DIM))
    )
    oracle = KNeighborsClassifier(K, algorithm="brute").fit(train, labels)
    database = [(np.arange(TRAIN), train)]
    contenders: dict[str, Callable[[], NDArray[np.int32] | None]] = {
        "bare product": lambda: product(test, train),
        "fungi": lambda: vote(labels[nearest_rows(test, database, K)]).labels,
        "scikit-learn": lambda: oracle.predict(test),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    said: dict[str, NDArray[np.int32] | None] = {}
    for number in range(rounds + 1):  # the first round warms up
        for name, run in contenders.items():
            began = time.perf_counter()
            said[name] = run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    flops = 2 * TRAIN * TEST * DIM
    print(f"{TRAIN} x {DIM}, {TEST} queries, {torch.get_num_threads()} threads")
    for name, time_taken in median.items():
        print(f"{name:13} {time_taken:6.2f} s  {flops / time_taken / 1e9:5.0f} GFLOP/s")
    same = np.array_equal(said["fungi"], said["scikit-learn"])
    print(f"same predictions as scikit-learn: {same}")
    print(f"speed over scikit-learn {median['scikit-learn'] / median['fungi']:.2f}")
    print(f"part of the product's rate {median['bare product'] / median['fungi']:.2f}")


def near_duplicates(rounds: int) -> None:
    """Print the milliseconds a query of both ways, and whether they find the same rows."""
    random = np.random.default_rng(0)
    centres = features(random.normal(size=(SCENE_ROWS // OF_SCENE, SCENE_DIM)))

    def images(of: NDArray[np.int64]) -> NDArray[np.float32]:
        own = features(random.normal(size=(len(of), SCENE_DIM)))
        return features(SCENE_COSINE**0.5 * centres[of] + (1 - SCENE_COSINE) ** 0.5 * own)

    vectors = images(np.arange(SCENE_ROWS) % len(centres))
    queries = images(random.integers(0, len(centres), SCENE_QUERIES))
    database = [(np.arange(SCENE_ROWS), vectors)]
    ratios = []
    for number in range(rounds + 1):  # the first round warms up
        began = time.perf_counter()
        found = nearest_rows(queries, database, K)
        ours = (time.perf_counter() - began) / len(queries)
        began = time.perf_counter()
        looped = [one_by_one(query, vectors) for query in queries[:ALONE]]
        alone = (time.perf_counter() - began) / ALONE
        same = np.array_equal(np.sort(found[:ALONE]), np.sort(looped))
        if number:
            ratios.append(alone / ours)
            print(f"{1000 * ours:.1f} ms a query, {1000 * alone:.0f} one by one, same: {same}")
    print(f"speed over one by one {statistics.median(ratios):.1f}")


def one_by_one(query: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the nearest rows of a query by float64 differences."""
    difference = query.astype(np.float64) - vectors
    return np.argsort(np.einsum("nd,nd->n", difference, difference), kind="stable")[:K]


def features(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return unit vectors."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def product(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> None:
    """Multiply every query with every vector, and keep nothing."""
    x, y = torch.from_numpy(queries), torch.from_numpy(vectors)
    rows = TILE_SCORES // len(y)
    tile = torch.empty(rows, len(y))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        torch.mm(part, y.T, out=tile[: len(part)])


if __name__ == "__main__":
    main()
