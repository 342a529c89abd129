"""Clusters against classes: k-means with one cluster a class, matched one to one.

FUNGI, table 14. The paper names faiss k-means, Hungarian matching and the "mean overlap", and
leaves open the rows, the seed, the iterations and the restarts: here they are part of the protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from fungistore.evaluation.intervals import over_runs
from fungistore.evaluation.options import ClusterOptions
from fungistore.evaluation.reduction import combine
from fungistore.evaluation.result import (
    LABEL_HINT,
    Evaluation,
    Score,
    count_excluded,
    refuse_too_few,
)
from fungistore.fingerprint import Config
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix, open_features
from fungistore.matrices.seen import refuse_seen
from fungistore.matrices.splits import named_split
from fungistore.randomness import Stream
from fungistore.store.samples import Rows
from fungistore.store.store import Store

POINTS_PER_CLUSTER = 256  # more do not move the centroids of faiss's k-means; its own default too
FIT_BYTES = 2_000_000_000  # of float32 rows that k-means is fitted on at once
LARGEST_FAISS_SEED = 2**31 - 1
LEAST_FIT_ROWS = 4  # a cluster, where FIT_BYTES is too little for POINTS_PER_CLUSTER


def evaluate_cluster(
    store: str | Path,
    options: ClusterOptions = ClusterOptions(),
    *,
    context: Context = DEFAULT,
) -> Evaluation:
    """Cluster the labelled rows, one cluster a class, and compare the clusters with the classes.

    Metrics, all fractions: `matched_accuracy` and `mean_overlap` as in `Agreement`, `nmi` and
    `ari`. Memory: the rows that k-means is fitted on, at most 256 a class and 2 GB, whatever the
    store's size; all rows are then assigned block by block.

    Args:
        store: the store's directory.
        options: what to cluster, and how.
        context: its reporter is told what happens, its stop asked between combinations.

    Raises:
        UsageError: a name is unknown, or fewer than two classes have usable rows.
        StoreError: the store is damaged.
    """
    ClusterOptions.accept(options)
    opened = Store.open(store, keep_removed=options.keep_removed)
    matrix = open_features(
        opened, options.features, pca=options.pca, feature_set=options.feature_set
    )
    labels = opened.samples.labels()
    pool = _rows_of(opened, options.split)
    coverage = matrix.coverage()
    is_labelled, is_usable = labels >= 0, coverage.usable
    rows = pool[(is_labelled & is_usable)[pool]]
    refuse_seen(opened, matrix.arrays, rows)
    classes, truth = np.unique(labels[rows], return_inverse=True)
    refuse_too_few(
        "clusters are compared with classes, and there are too few",
        len(classes),
        2,
        LABEL_HINT,
    )
    scores = []
    chosen = combine(matrix.features, options.combinations)
    seeds = range(options.seed, options.seed + options.seeds)
    context.reporter.begin("clusterings", len(chosen) * len(seeds))
    for features in chosen:
        runs = []
        for seed in seeds:
            context.stop_if_asked()
            subset = matrix.subset(features)
            runs.append(_clustered(subset, rows, truth, len(classes), options, seed))
            context.reporter.advance(1)
        scores.append(_averaged(runs))
    context.reporter.end()
    protocol: Config = {
        "rows": options.split or "all",
        "clusters": len(classes),
        "kmeans": {"niter": options.niter, "nredo": options.nredo, "spherical": False},
        "points_per_cluster": POINTS_PER_CLUSTER,
        "matching": "hungarian",
        **({"seed": options.seed} if len(seeds) == 1 else {"seeds": list(seeds)}),
        "blocks": matrix.made_of,
    }
    excluded = count_excluded(pool, is_labelled, coverage)
    return Evaluation(
        "cluster", opened.where, matrix.feature_set, protocol, excluded, tuple(scores)
    )


@dataclass(frozen=True)
class Agreement:
    """How well clusters, matched one to one with classes, agree with them.

    The matching is the one that puts the most rows into their class's cluster.

    Attributes:
        matched_accuracy: part of all rows that are in the cluster of their class.
        mean_overlap: mean over the classes of the part of a class's rows that are in its cluster.
            With classes of one size it equals the accuracy.
    """

    matched_accuracy: float
    mean_overlap: float


def match_clusters(truth: NDArray[np.int64], clusters: NDArray[np.int64]) -> Agreement:
    """Match clusters with classes by the Hungarian method, on the table of common rows.

    Args:
        truth: class of each row, [n].
        clusters: cluster of each row, [n].
    """
    common = contingency_matrix(truth, clusters)  # [classes, clusters], only those that occur
    matched_classes, matched_clusters = linear_sum_assignment(common, maximize=True)
    overlap = common[matched_classes, matched_clusters]
    sizes = common.sum(axis=1)
    parts = np.zeros(len(common))  # a class without a cluster, which has run empty, has none
    parts[matched_classes] = overlap / sizes[matched_classes]
    return Agreement(float(overlap.sum() / sizes.sum()), float(parts.mean()))


def _clustered(
    matrix: FeatureMatrix,
    rows: Rows,
    truth: NDArray[np.int64],
    clusters: int,
    options: ClusterOptions,
    seed: int,
) -> Score:
    fitted = _rows_to_fit(rows, clusters, matrix.dim, seed)
    model = faiss.Kmeans(
        matrix.dim,
        clusters,
        niter=options.niter,
        nredo=options.nredo,
        seed=_faiss_seed(seed),
        min_points_per_centroid=1,  # faiss would warn on stderr
        max_points_per_centroid=len(fitted),  # they are chosen above
    )
    model.train(matrix.load(fitted)[1])
    nearest = [model.index.search(vectors, 1)[1][:, 0] for _, vectors in matrix.stream(rows)]
    assigned = np.concatenate(nearest)
    agreement = match_clusters(truth, assigned)
    return Score(
        features=matrix.features,
        dim=matrix.dim,
        n_train=len(fitted),
        n_test=len(rows),
        metrics={
            "matched_accuracy": agreement.matched_accuracy,
            "mean_overlap": agreement.mean_overlap,
            "nmi": float(normalized_mutual_info_score(truth, assigned)),
            "ari": float(adjusted_rand_score(truth, assigned)),
        },
        spread={},
        protocol={"empty_clusters": clusters - len(np.unique(assigned))},
        fingerprints=matrix.fingerprints,
        contents=matrix.contents,
    )


def _faiss_seed(seed: int) -> int:
    """Return a seed as faiss takes it, of 32 bits; of one that has more, another."""
    is_short = abs(seed) <= LARGEST_FAISS_SEED
    return seed if is_short else int(Stream(seed, "cluster", "faiss").words(1)[0] >> np.uint64(33))


def _averaged(runs: Sequence[Score]) -> Score:
    """Average the metrics of the seeds."""
    if len(runs) == 1:
        return runs[0]
    metrics, spread = over_runs([run.metrics for run in runs], {})
    protocol: Config = {"runs": [run.protocol for run in runs]}
    return replace(runs[0], metrics=metrics, spread=spread, protocol=protocol)


def _rows_to_fit(rows: Rows, clusters: int, dim: int, seed: int) -> Rows:
    in_memory = max(LEAST_FIT_ROWS * clusters, FIT_BYTES // (4 * dim))
    count = min(len(rows), POINTS_PER_CLUSTER * clusters, in_memory)
    if count == len(rows):
        return rows
    return np.sort(rows[Stream(seed, "cluster", "fit").choice(len(rows), count)])


def _rows_of(store: Store, split: str | None) -> Rows:
    if split is None:
        return np.arange(len(store.samples))
    return named_split(store, split, "leave out --split to cluster all rows")
