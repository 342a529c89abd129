"""`fungi eval knn`: nearest-neighbour classification (FUNGI, tables 1, 2 and 8)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.evaluation.neighbour_count import say_votes
from fungistore.evaluation.options import KnnOptions
from fungistore.evaluation.predictions import RANKED, Predictions
from fungistore.evaluation.reduction import Reduction, fit_reduction
from fungistore.evaluation.result import Evaluation
from fungistore.evaluation.table import Outcome, evaluate_table
from fungistore.evaluation.task import Task, TaskRows
from fungistore.fingerprint import Config
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors, normalize
from fungistore.matrices.choices import Run
from fungistore.matrices.neighbours import Database, nearest, nearest_rows


def evaluate_knn(
    store: str | Path,
    options: KnnOptions = KnnOptions(),
    *,
    context: Context = DEFAULT,
) -> Evaluation:
    """Classify the test rows by their nearest training rows.

    The majority vote gives scikit-learn's `KNeighborsClassifier` predictions. Of fewer training
    rows than k all vote, which is said before they do; the score's protocol has their number.
    Memory is bounded: rows beyond 1 GB are read from the store again and again.

    Args:
        store: the store's directory.
        options: what to evaluate, and how.
        context: its reporter is told what happens, its stop asked between runs.

    Raises:
        UsageError: features, labels or splits are missing.
        MismatchError: a stored PCA was fitted on test rows.
    """

    KnnOptions.accept(options)

    said: set[int] = set()

    def check(task: Task) -> None:
        if (rows := len(task.split.train)) not in said:
            say_votes(options.k, rows, options.vote, context)
            said.add(rows)

    def classify(task: Task, matrix: FeatureMatrix, dim: int | None, run: Run) -> Outcome:
        reduction = fit_reduction(matrix, task.split.train, dim, context, options, run.seed)
        k = min(options.k, len(task.split.train))
        predictions = _predictions(task, matrix, reduction, replace(options, k=k))
        fewer: Config = {"k": k} if k < options.k else {}
        return Outcome(predictions, reduction.dim, reduction.protocol | fewer)

    protocol = _protocol(options)
    return evaluate_table(store, "knn", options, protocol, classify, context, check=check)


def vote(
    labels: NDArray[np.int32],
    weights: NDArray[np.float64] | None = None,
    classes: NDArray[np.int32] | None = None,
) -> Predictions:
    """Rank the labels of each row's neighbours by their votes, ties to the smallest label.

    Args:
        labels: [n, k] labels of the neighbours.
        weights: [n, k] weight of each; default: all the same.
        classes: all labels that there are, ascending: the share of each is given, too.
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
    ranked = np.take_along_axis(names, ranking, 1)
    if classes is None:
        return Predictions(ranked)
    cell = np.arange(count)[:, None] * len(classes) + np.searchsorted(classes, labels)
    shares = np.bincount(cell.ravel(), weights.ravel(), count * len(classes))
    shares = shares.reshape(count, len(classes)) / weights.sum(axis=1, keepdims=True)
    return Predictions(ranked, shares.astype(np.float32), classes)


def predict(
    database: Database,
    labels: NDArray[np.int32],
    queries: Vectors,
    options: KnnOptions,
    classes: NDArray[np.int32] | None = None,
) -> Predictions:
    """Classify queries [q, d] by the labelled rows of a database.

    Args:
        database: training rows, as `nearest` takes them.
        labels: of the whole sample table.
        queries: vectors [q, d].
        options: k, vote and temperature.
        classes: all labels of the database, ascending: the share of each is given, too.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.vote == "majority":
        rows = nearest_rows(queries, database, options.k, device)
        return vote(labels[rows], classes=classes)
    found = nearest(queries, database, options.k, device)
    cosines = 1 - found.distances**2 / 2
    lower = cosines - cosines.max(axis=1, keepdims=True)  # or a low temperature leaves infinities
    return vote(labels[found.rows], np.exp(lower / options.temperature), classes)


def _predictions(
    task: Task, matrix: FeatureMatrix, reduction: Reduction, options: KnnOptions
) -> Predictions:
    """Classify the test rows, as many at a time as are read at a time."""

    def transform(vectors: Vectors) -> Vectors:
        vectors = reduction(vectors)
        if options.vote == "weighted":
            normalize(vectors)
        return vectors

    train = task.split.train
    database, classes = TaskRows(matrix, train, transform), np.unique(task.labels[train])
    parts = [
        predict(database, task.labels, queries, options, classes)
        for _, queries in TaskRows(matrix, task.split.test, transform)
    ]
    return Predictions.joined(parts)


def _protocol(options: KnnOptions) -> Config:
    """Return what decides the scores, beside what a table says."""
    protocol: Config = {"k": options.k, "vote": options.vote}
    if options.vote == "weighted":
        protocol |= {"metric": "cosine", "temperature": options.temperature}
    else:
        protocol["metric"] = "euclidean"
    return protocol
