"""Which kind of index: from the number of vectors, their width and the memory, with the reason."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fungistore.machine.powers import power_of_two_within
from fungistore.machine.resources import free_memory

# Exact search reads every value: 100 million float32 are 0.4 GB, some 50 ms a query on one core.
FLAT_VALUES = 100_000_000
# HNSW32 inserts a few hundred to a few thousand vectors a second: beyond this it takes hours.
HNSW_ROWS = 2_000_000
HNSW_LINKS = 32
# An index shares the memory with the page cache and with other programs, and a graph is searched
# from memory alone; so the fastest kind must leave most of it, and the next one half.
HNSW_PART = 0.25
IVF_FLAT_PART = 0.5
ID_BYTES = 8
LINK_BYTES = 4
# faiss warns of k-means with fewer points a centroid than this.
POINTS_PER_LIST = 39
# k-means and product quantisers are trained on a hundredth of the float32 vectors, but on so many
# bytes at least, and at most; faiss copies them once or twice.
TRAIN_BYTES = (1 << 29, 1 << 30)
# A product quantiser has 256 centroids a part and wants 39 points for each of them.
LEAST_TRAINING = 256 * POINTS_PER_LIST
PART_DIMS = 8  # dimensions that one byte of a product quantiser stands for
MOST_PARTS = 128
# A rotation (OPQ) of d x d is learnt with a singular value decomposition a round: d^3.
OPQ_DIM = 2048


@dataclass(frozen=True)
class Choice:
    """A faiss factory string, and why it was chosen."""

    factory: str
    reason: str


def choose_factory(count: int, dim: int, memory: int) -> Choice:
    """Choose an index for `count` vectors of `dim` where `memory` bytes are available.

    Flat while exact search is quick; then a graph (HNSW) while it takes a quarter of the memory;
    then inverted lists of whole vectors (IVF-Flat) up to half; then product-quantised ones
    (IVF-PQ, after a learnt rotation where `dim` allows one).
    """
    size = f"{count:,} x {dim}"
    if count * dim <= FLAT_VALUES:
        return Choice("Flat", f"{size} values are few enough for exact search")
    available = f"{memory / 1e9:.1f} GB available"
    graph = count * (4 * dim + 2 * HNSW_LINKS * LINK_BYTES + ID_BYTES)
    if count <= HNSW_ROWS and graph <= HNSW_PART * memory:
        reason = f"a graph of {size} takes {graph / 1e9:.1f} GB, under a quarter of {available}"
        return Choice(f"HNSW{HNSW_LINKS}", reason)
    lists = list_count(count, dim)
    whole = count * (4 * dim + ID_BYTES)
    if whole <= IVF_FLAT_PART * memory:
        why = f"more than {HNSW_ROWS:,} rows" if count > HNSW_ROWS else "a graph would be too large"
        reason = f"{why}; {size} takes {whole / 1e9:.1f} GB, under half of {available}"
        return Choice(f"IVF{lists},Flat", reason)
    parts = part_count(dim)
    small = count * (parts + ID_BYTES)
    reason = (
        f"whole vectors of {size} take {whole / 1e9:.1f} GB, over half of {available}; "
        f"quantised ones take {small / 1e9:.1f} GB"
    )
    if dim <= OPQ_DIM:
        return Choice(f"OPQ{parts}_{dim // parts * parts},IVF{lists},PQ{parts}", reason)
    return Choice(f"IVF{lists},PQ{parts}", reason)


def list_count(count: int, dim: int) -> int:
    """Return a power of two near 4 sqrt(count) that the training sample has enough points for."""
    wanted = 4 * count**0.5
    trainable = training_rows(count, dim) / POINTS_PER_LIST
    return power_of_two_within(min(wanted, trainable))


def training_rows(count: int, dim: int) -> int:
    """Return how many vectors to train on: `TRAIN_BYTES` of them, or all."""
    least, most = TRAIN_BYTES
    taken = min(most, max(least, 4 * dim * count // 100))
    return min(count, max(LEAST_TRAINING, taken // (4 * dim)))


def part_count(dim: int) -> int:
    """Return the bytes of a product-quantised vector; a divisor of `dim` where none is rotated."""
    parts = min(MOST_PARTS, max(1, dim // PART_DIMS))
    if dim <= OPQ_DIM:
        return parts
    return next(count for count in range(parts, 0, -1) if dim % count == 0)


def available_memory() -> int:
    """Return the bytes that this process can still take; all there are where that is unknown."""
    return free_memory() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
