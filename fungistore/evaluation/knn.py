"""`fungi eval knn`: nearest-neighbour classification (FUNGI, tables 1, 2 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.blocks import FeatureMatrix, Rows, Vectors, normalize
from fungistore.errors import UsageError
from fungistore.evaluation.metrics import Predictions, accuracy_interval, classification_metrics
from fungistore.evaluation.reduction import (
    Combinations,
    Reduction,
    combine,
    fit_reduction,
    refuse_reduced_pca,
)
from fungistore.evaluation.result import Evaluation, Score
from fungistore.evaluation.task import Task, TaskRows, open_task
from fungistore.fingerprint import Config
from fungistore.neighbours import Database, nearest, nearest_rows
from fungistore.randomness import Stream
from fungistore.report import Reporter, Silent, stop_if_asked

NEIGHBOURS = 20  # FUNGI, section 4
TEMPERATURE = 0.07  # of the weighted vote (DINO, section 4.1 and its code)
RANKED = 5
Vote = Literal["majority", "weighted"]
ShotRule = Literal["random", "first"]


@dataclass(frozen=True)
class KnnOptions:
    """Settings of `fungi eval knn`.

    Attributes:
        features: blocks; default: all vector features.
        pca: a stored PCA, instead of blocks.
        feature_set: may be left out where there is one.
        k: neighbours.
        vote: "majority" of Euclidean neighbours, ties to the smallest label, or "weighted":
            cosine neighbours, each with weight exp(cosine / temperature).
        temperature: of the weighted vote.
        shots: training rows of each class; default: all.
        shot_rule: "random", or "first" in the order of the table (the paper's).
        seeds: how many random choices of shots to average over.
        combinations: "one": all blocks together; "nested": the first, the first two, and so on;
            "all": every choice of blocks.
        pca_dims: fit a PCA to this many components on the training rows of each combination and
            choice of shots; None is without one. Several give a score each.
        holdout: part of each class to test on, where the store has no test split.
        seed: of the holdout and of the shots.
        kappa: also the quadratic kappa, for ordered classes.
    """

    features: tuple[str, ...] | None = None
    pca: str | None = None
    feature_set: str | None = None
    k: int = NEIGHBOURS
    vote: Vote = "majority"
    temperature: float = TEMPERATURE
    shots: int | None = None
    shot_rule: ShotRule = "random"
    seeds: int = 1
    combinations: Combinations = "one"
    pca_dims: tuple[int | None, ...] = (None,)
    holdout: float | None = None
    seed: int = 0
    kappa: bool = False


def evaluate_knn(
    store: str | Path,
    options: KnnOptions,
    *,
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Classify the test rows by their nearest training rows.

    The majority vote gives scikit-learn's `KNeighborsClassifier` predictions. Memory is bounded:
    training rows beyond 1 GB are read again for every 256 MB of test rows.

    Args:
        store: the store's directory.
        options: what to evaluate, and how.
        reporter: is told what happens; default: nobody.
        stop: asked between combinations.

    Raises:
        UsageError: features, labels or splits are missing, or training rows are fewer than k.
        MismatchError: a stored PCA was fitted on test rows.
    """
    reporter = reporter or Silent()
    _refuse_contradictions(options)
    refuse_reduced_pca(options.pca, options.pca_dims, options.combinations)
    task = open_task(
        store,
        options.features,
        pca=options.pca,
        feature_set=options.feature_set,
        holdout=options.holdout,
        seed=options.seed,
    )
    scores = []
    chosen = combine(task.matrix.features, options.combinations)
    reporter.begin("combinations", len(chosen) * len(options.pca_dims))
    for features in chosen:
        for dim in options.pca_dims:
            stop_if_asked(stop)
            scores.append(_score(task, task.matrix.subset(features), dim, options, reporter))
            reporter.advance(1)
    reporter.end()
    protocol = {"split": task.split.description} | _protocol(options)
    return Evaluation(
        kind="knn",
        store=str(task.store.root),
        feature_set=task.matrix.feature_set,
        protocol=protocol,
        excluded=task.excluded,
        scores=tuple(scores),
    )


def vote(
    labels: NDArray[np.int32], weights: NDArray[np.float64] | None = None, classes: int = 0
) -> Predictions:
    """Rank the labels of each row's neighbours by their votes, ties to the smallest label.

    Args:
        labels: [n, k] labels of the neighbours.
        weights: [n, k] weight of each; default: all the same.
        classes: number of classes; 2 also gives the share of label 1.
    """
    count, k = labels.shape
    weights = np.ones(labels.shape) if weights is None else weights
    order = np.argsort(labels, axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, 1)
    is_first = np.diff(ordered, axis=1, prepend=-1) != 0
    run = np.cumsum(is_first, axis=1) - 1
    slot = (np.arange(count)[:, None] * k + run).ravel()
    tally = np.bincount(slot, np.take_along_axis(weights, order, 1).ravel(), count * k)
    names = np.full(count * k, -1, np.int32)
    names[slot] = ordered.ravel()
    tally, names = tally.reshape(count, k), names.reshape(count, k)
    tally[names < 0] = -1.0  # weights may underflow to zero and still name a class
    ranking = np.argsort(-tally, axis=1, kind="stable")[:, :RANKED]
    positive = None
    if classes == 2:
        positive = (weights * (labels == 1)).sum(axis=1) / weights.sum(axis=1)
    return Predictions(np.take_along_axis(names, ranking, 1), positive)


def choose_shots(
    rows: Rows, labels: NDArray[np.int32], shots: int, rule: ShotRule, stream: Stream
) -> Rows:
    """Return up to `shots` rows of each class, ascending: random ones, or the first."""
    keys = np.arange(len(rows)) if rule == "first" else stream.uniform(len(rows))
    order = np.lexsort((keys, labels[rows]))
    _, starts, counts = np.unique(labels[rows][order], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    return np.sort(rows[order[rank < shots]])


def predict(
    database: Database,
    labels: NDArray[np.int32],
    queries: Vectors,
    options: KnnOptions,
    classes: int,
) -> Predictions:
    """Classify queries [q, d] by the labelled rows of a database.

    Args:
        database: training rows, as `nearest` takes them.
        labels: of the whole sample table.
        queries: vectors [q, d].
        options: k, vote and temperature.
        classes: number of classes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.vote == "majority":
        rows = nearest_rows(queries, database, options.k, device)
        return vote(labels[rows], classes=classes)
    found = nearest(queries, database, options.k, device)
    cosines = 1 - found.distances**2 / 2
    return vote(labels[found.rows], np.exp(cosines / options.temperature), classes)


def _score(
    task: Task, matrix: FeatureMatrix, dim: int | None, options: KnnOptions, reporter: Reporter
) -> Score:
    """Evaluate one combination, once or for every choice of shots."""
    runs = []
    train = task.split.train
    for seed in range(options.seeds):
        if options.shots is not None:
            stream = Stream(options.seed, "shots", str(seed))
            train = choose_shots(
                task.split.train, task.labels, options.shots, options.shot_rule, stream
            )
        _refuse_few(len(train), options.k)
        reduction = fit_reduction(matrix, train, dim, reporter)
        predictions = _predictions(task, matrix, train, reduction, options)
        truth = task.labels[task.split.test]
        runs.append(classification_metrics(truth, predictions, task.classes, kappa=options.kappa))
    metrics = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    tested = len(task.split.test)
    spread = {"accuracy": accuracy_interval(metrics["accuracy"], tested)}
    if options.seeds > 1:
        spread = {}
        metrics["accuracy_deviation"] = float(np.std([run["accuracy"] for run in runs], ddof=1))
    return Score(
        features=matrix.features,
        dim=reduction.dim,
        n_train=len(train),
        n_test=tested,
        metrics=metrics,
        spread=spread,
        protocol=reduction.protocol,
        fingerprints=matrix.fingerprints,
    )


def _predictions(
    task: Task, matrix: FeatureMatrix, train: Rows, reduction: Reduction, options: KnnOptions
) -> Predictions:
    """Classify the test rows, as many at a time as are read at a time."""

    def transform(vectors: Vectors) -> Vectors:
        vectors = reduction(vectors)
        if options.vote == "weighted":
            normalize(vectors)
        return vectors

    database = TaskRows(matrix, train, transform)
    parts = [
        predict(database, task.labels, queries, options, task.classes)
        for _, queries in TaskRows(matrix, task.split.test, transform)
    ]
    positive = [part.positive for part in parts if part.positive is not None]
    return Predictions(
        np.concatenate([part.ranked for part in parts]),
        np.concatenate(positive) if positive else None,
    )


def _refuse_contradictions(options: KnnOptions) -> None:
    """Refuse settings that cannot be meant."""
    found = None
    if options.seeds > 1 and (options.shots is None or options.shot_rule == "first"):
        found = "--seeds without random --shots: every seed would give the same"
    elif min(options.k, options.seeds, options.shots or 1) < 1 or options.temperature <= 0:
        found = "k, seeds, shots and temperature have to be positive"
    if found:
        raise UsageError("these settings do not go together", found=found)


def _refuse_few(train: int, k: int) -> None:
    if train < k:
        raise UsageError(
            f"{train} training rows have no {k} nearest neighbours",
            expected=f"at least {k} training rows",
            found=train,
            hint=f"--k {train} or fewer, or more --shots",
        )


def _protocol(options: KnnOptions) -> Config:
    """Return what decides the scores, without what the split or each score says."""
    protocol: Config = {"k": options.k, "vote": options.vote}
    if options.vote == "weighted":
        protocol |= {"metric": "cosine", "temperature": options.temperature}
    else:
        protocol["metric"] = "euclidean"
    if options.shots is not None:
        protocol |= {"shots": options.shots, "shot_rule": options.shot_rule}
        protocol |= {"seeds": options.seeds, "seed": options.seed}
    protocol["blocks"] = "stored PCA" if options.pca else "L2-normalised, concatenated"
    protocol["pca_dims"] = list(options.pca_dims)
    return protocol
