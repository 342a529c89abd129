"""Exact search of a memory bank against faiss' own: the rate, and the memory beyond the bank.

    python benchmarks/bank.py                       # 1,000,000 x 768, 4,096 queries at a time
    python benchmarks/bank.py --patches 200000

faiss' own search has the bank as float32, twice the bytes of what a store keeps.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np

from fungistore.segmentation import lookup

NEIGHBOURS = 30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patches", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    bank = np.empty((arguments.patches, arguments.dim), np.float16)
    for start in range(0, len(bank), 65_536):
        part = random.standard_normal(
            (len(bank[start : start + 65_536]), arguments.dim), np.float32
        )
        bank[start : start + 65_536] = part / np.linalg.norm(part, axis=1, keepdims=True)
    queries = random.standard_normal((arguments.queries, arguments.dim), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    before = peak()
    times = [seconds(lambda: lookup.exact(bank, queries, NEIGHBOURS))]
    beyond = peak() - before
    index = faiss.IndexFlatIP(arguments.dim)
    for start in range(0, len(bank), 65_536):
        index.add(bank[start : start + 65_536].astype(np.float32))
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        theirs.append(seconds(lambda: index.search(queries, NEIGHBOURS)))
        ours.append(seconds(lambda: lookup.exact(bank, queries, NEIGHBOURS)))
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    print(f"{len(bank):,} x {arguments.dim}, {len(queries):,} queries: {ratio:.2f} of faiss' rate")
    print(f"ours {statistics.median(ours):.2f} s (first {times[0]:.2f} s)")
    print(f"faiss {statistics.median(theirs):.2f} s; beyond the bank {beyond:.2f} GiB")


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def peak() -> float:
    """Return the most GiB that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
