"""Two questions to the blocks of a feature set: how alike are they, and which classes gain?

FUNGI, figures 2 and 3: the linear CKA (Kornblith et al., 2019) of every two blocks, and the
difference in each class's k-nearest-neighbour accuracy between two combinations of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from fungistore.errors import FungiError, UsageError
from fungistore.evaluation.intervals import metric_intervals, over_runs
from fungistore.evaluation.knn import predict
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.neighbour_count import say_votes
from fungistore.evaluation.options import CompareOptions, KnnOptions
from fungistore.evaluation.paired import Combination, Hits, paired_difference
from fungistore.evaluation.plots import check_plot, save_plot
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.result import Evaluation, Score, Table, class_names, refuse_too_few
from fungistore.evaluation.task import Task, TaskRows, say_split, say_unseen, task_for
from fungistore.fingerprint import Config
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors
from fungistore.store.samples import Rows

CLASSES_SHOWN = 40


@dataclass(frozen=True)
class Similarity:
    """The linear CKA of every two blocks.

    Attributes:
        features: the blocks.
        matrix: one row and one column for each block, of numbers from 0 to 1.
        n: rows that it was computed from.
    """

    features: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    n: int


@dataclass(frozen=True)
class ClassDifference:
    """One class under both combinations.

    Attributes:
        name: of the class.
        n_test: its test rows.
        accuracy_a, accuracy_b: part of them that each combination gets right.
        difference: B's accuracy less A's.
    """

    name: str
    n_test: int
    accuracy_a: float
    accuracy_b: float
    difference: float


@dataclass(frozen=True, repr=False)
class Comparison(Evaluation):
    """An evaluation with two scores, of combinations A and B, and what tells them apart.

    Attributes:
        cka: of the blocks of which the combinations are made, and all others asked for.
        classes: classes with test rows; those that gain the most from B come first.
    """

    cka: Similarity
    classes: tuple[ClassDifference, ...]

    def details(self) -> tuple[Table, ...]:
        """Return the CKA of every two blocks, and the classes that gain or lose the most."""
        pairs = zip(self.cka.features, self.cka.matrix, strict=True)
        similar = tuple((name, *(f"{value:.3f}" for value in values)) for name, values in pairs)
        rows = [
            (
                one.name,
                str(one.n_test),
                f"{100 * one.accuracy_a:.2f}",
                f"{100 * one.accuracy_b:.2f}",
                f"{100 * one.difference:+.2f}",
            )
            for one in self.classes
        ]
        if len(rows) > CLASSES_SHOWN:
            half, left_out = CLASSES_SHOWN // 2, len(rows) - CLASSES_SHOWN
            rows[half:-half] = [(f"... {left_out} more (--json has them)", "", "", "", "")]
        return (
            Table(("linear CKA", *self.cka.features), similar),
            Table(("class", "test", "A", "B", "B - A"), tuple(rows)),
        )


def compare_features(
    store: str | Path,
    options: CompareOptions = CompareOptions(),
    *,
    context: Context = DEFAULT,
) -> Comparison:
    """Compare blocks by their CKA, and two combinations of them class by class.

    The CKA is of all rows with usable features, labelled or not, after the blocks' rows are
    L2-normalised. Accuracies are those of `fungi eval knn`: k Euclidean neighbours, which vote.
    Only rows that all blocks have count.

    Args:
        store: the store's directory.
        options: what to compare, and how.
        context: its reporter is told what happens, its stop asked between the CKA and the
            combinations.

    Raises:
        UsageError: a name is unknown, there are no test rows, or there are too few labelled rows.
        FungiError: all rows of a block are the same.
        StoreError: the store is damaged.
    """
    CompareOptions.accept(options)
    if options.plot is not None:
        check_plot(options.plot)
    task = task_for(store, options)
    matrix = task.matrix
    split = say_split(task.split, context)
    unseen = say_unseen(task.unseen, context)
    combinations = {
        "A": _choose(matrix, options.a or matrix.features[:1], "--a"),
        "B": _choose(matrix, options.b or matrix.features, "--b"),
    }
    k = min(options.k, len(task.split.train))
    say_votes(options.k, len(task.split.train), "majority", context)
    context.reporter.begin("comparing", 3)
    cka = linear_cka(matrix, np.flatnonzero(matrix.coverage().usable))
    context.reporter.advance(1)
    predictions = {}
    for name, combination in combinations.items():
        context.stop_if_asked()
        predictions[name] = _predict(task, combination, k)
        context.reporter.advance(1)
    context.reporter.end()
    protocol: Config = {
        "a": list(combinations["A"].features),
        "b": list(combinations["B"].features),
        "k": k,
        "vote": "majority",
        "metric": "euclidean",
        "split": split,
        "cka": {"kind": "linear", "rows": "all", "fingerprints": matrix.fingerprints},
    }
    truth = task.labels[task.split.test]
    tested = {
        name: Combination(name, (Hits(task.split.test, found.labels == truth),))
        for name, found in predictions.items()
    }
    comparison = Comparison(
        kind="compare",
        store=task.store.where,
        feature_set=matrix.feature_set,
        protocol=protocol,
        excluded=task.excluded,
        unseen=unseen,
        scores=tuple(
            replace(
                _score(name, task, combinations[name], predictions[name]),
                difference=paired_difference(tested[name], tested["A"]),
            )
            for name in combinations
        ),
        cka=cka,
        classes=_differences(task, predictions["A"], predictions["B"]),
    )
    if options.plot is not None:
        save_plot(comparison, options.plot)
        context.reporter.notice(f"plot: {options.plot}")
    return comparison


def linear_cka(matrix: FeatureMatrix, rows: Rows) -> Similarity:
    """Return the linear CKA of every two blocks of a matrix, in one pass over the rows.

    In feature space, with centred columns: |Y'X|^2 / (|X'X| |Y'Y|) in Frobenius norms. The sums
    are float64 and take 8 bytes x the square of the matrix's width, whatever the number of rows.

    Args:
        matrix: the blocks.
        rows: ascending numbers of the rows to compute it from.

    Raises:
        UsageError: there are fewer than two rows.
        FungiError: all rows of a block are the same.
    """
    total, products, count = np.zeros(matrix.dim), np.zeros((matrix.dim, matrix.dim)), 0
    for numbers, vectors in matrix.stream(rows):
        exact = vectors.astype(np.float64)
        total += exact.sum(axis=0)
        products += exact.T @ exact
        count += len(numbers)
    refuse_too_few("CKA needs rows to compare", count, 2, "fungi extract makes features")
    products -= np.outer(total, total) / count
    widths = [matrix.subset([name]).dim for name in matrix.features]
    edges = np.concatenate([[0], np.cumsum(widths)])
    spans = [slice(start, stop) for start, stop in pairwise(edges.tolist())]
    norms = np.array([[np.linalg.norm(products[one, other]) for other in spans] for one in spans])
    own = norms.diagonal()
    for name, norm in zip(matrix.features, own, strict=True):
        if norm <= count * np.finfo(np.float64).eps:  # what rounding leaves of equal unit rows
            raise FungiError(
                "all rows of a block are the same, so it is like or unlike nothing",
                where=name,
                hint="leave it out with --features",
            )
    similarity = norms**2 / np.outer(own, own)
    return Similarity(matrix.features, tuple(map(tuple, similarity.tolist())), count)


def _choose(matrix: FeatureMatrix, names: Sequence[str], flag: str) -> FeatureMatrix:
    unknown = [name for name in names if name not in matrix.features]
    if unknown:
        raise UsageError(
            f"no such feature: {', '.join(unknown)}",
            where=flag,
            expected=f"some of {', '.join(matrix.features)}",
            hint="the blocks must be among --features",
        )
    return matrix.subset(names)


def _predict(task: Task, matrix: FeatureMatrix, k: int) -> Predictions:
    options = KnnOptions(k=k, vote="majority")
    database = TaskRows(matrix, task.split.train, _as_they_are)
    blocks = TaskRows(matrix, task.split.test, _as_they_are)
    parts = [predict(database, task.labels, queries, options) for _, queries in blocks]
    return Predictions(np.concatenate([part.ranked for part in parts]))


def _as_they_are(vectors: Vectors) -> Vectors:
    return vectors


def _score(name: str, task: Task, matrix: FeatureMatrix, predictions: Predictions) -> Score:
    truth = task.labels[task.split.test]
    measured = classification_metrics(truth, predictions, task.classes)
    metrics, spread = over_runs([measured], metric_intervals(truth, predictions, measured))
    return Score(
        features=matrix.features,
        dim=matrix.dim,
        n_train=len(task.split.train),
        n_test=len(truth),
        metrics=metrics,
        spread=spread,
        protocol={"combination": name},
        fingerprints=matrix.fingerprints,
        contents=matrix.contents,
    )


def _differences(task: Task, a: Predictions, b: Predictions) -> tuple[ClassDifference, ...]:
    truth = task.labels[task.split.test]
    present, numbers, counts = np.unique(truth, return_inverse=True, return_counts=True)
    of_a, of_b = (
        np.bincount(numbers, predictions.labels == truth, len(present)) / counts
        for predictions in (a, b)
    )
    names = class_names(task.store, present.tolist())
    found = [
        ClassDifference(name, count, before, after, after - before)
        for name, count, before, after in zip(
            names, counts.tolist(), of_a.tolist(), of_b.tolist(), strict=True
        )
    ]
    return tuple(sorted(found, key=lambda one: (-one.difference, one.name)))
