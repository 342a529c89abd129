"""Exact nearest neighbours against scikit-learn's brute force and the bare matrix product.

    python benchmarks/knn.py

50,000 training and 10,000 test vectors of 512 numbers, k = 20, as `fungi eval knn` classifies
them. The floor is the float32 product of all pairs, in tiles of the same size into one buffer.
Contenders alternate; medians of the rounds and their ratios count, not the times.
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


def main() -> None:
    """Print a line for each contender, and whether the predictions are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
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
