"""A table of scores: combinations of features, with and without PCA, over one or more seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.evaluation.intervals import metric_intervals, over_runs
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.options import TableOptions
from fungistore.evaluation.ordered import ranks_of, require_order
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.reduction import combine
from fungistore.evaluation.result import Evaluation, Score, class_names
from fungistore.evaluation.task import Task, open_task, say_split, say_unseen
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.store.store import Store


@dataclass(frozen=True)
class Outcome:
    """What a classifier made of one combination and one seed.

    Attributes:
        predictions: of the test rows.
        n_train: rows that it was fitted on.
        dim: width of its vectors.
        protocol: what it decided on the way.
    """

    predictions: Predictions
    n_train: int
    dim: int
    protocol: Config


# gets the task of a seed, the features, the width of the PCA, and the seed
Classifier = Callable[[Task, FeatureMatrix, int | None, int], Outcome]


def evaluate_table(
    store: str | Path,
    kind: str,
    options: TableOptions,
    protocol: Config,
    classify: Classifier,
    context: Context,
) -> Evaluation:
    """Run a classifier for every combination and seed, and score it.

    Args:
        store: the store's directory.
        kind: name of the evaluation.
        options: which combinations, seeds and rows.
        protocol: what else decides the scores.
        classify: the classifier.
        context: its reporter is told what happens, its stop asked between runs.

    Raises:
        UsageError: several seeds, of which every one would give the same.
    """
    seeds = range(options.seed, options.seed + options.seeds)

    def opened(seed: int) -> Task:
        return open_task(
            Store.open(store, keep_removed=options.keep_removed),
            options.features,
            pca=options.pca,
            feature_set=options.feature_set,
            holdout=options.holdout,
            seed=seed,
        )

    task = opened(options.seed)
    is_held_out = "holdout" in task.split.description
    if len(seeds) > 1 and not (is_held_out or options.draws):
        expected = "1 without --holdout or random --shots: every seed would give the same"
        options.refuse("seeds", expected, options.seeds, "leave out --seeds")
    differing = seeds[1:] if is_held_out else ()
    tasks = [task, *map(opened, differing)]
    split = say_split(task.split, context, len(seeds))
    unseen = say_unseen(max((one.unseen for one in tasks), key=lambda one: one.rows), context)
    names = class_names(task.store, task.present.tolist())
    order = None
    if options.kappa or options.order:
        order = require_order(names, options.order, "--kappa")
        present = np.unique(task.labels[task.split.test])
        context.reporter.notice(
            f"quadratic kappa with the classes as {' < '.join(order)}"
            if len(present) > 1
            else "no quadratic kappa: the test rows are of one class"
        )
        protocol = protocol | {"order": list(order)}
    ranks = None
    if order is not None:  # by label: classes that no row has need none
        ranks = np.zeros(len(task.store.manifest.labels), np.int64)
        ranks[task.present] = ranks_of(names, order)
    cells = [
        (task.matrix.subset(features), dim)
        for features in combine(task.matrix.features, options.combinations)
        for dim in options.pca_dims
    ]
    scores = []
    context.reporter.begin("runs", len(cells) * len(seeds))
    for matrix, dim in cells:
        runs = []
        for number, seed in enumerate(seeds):
            context.stop_if_asked()
            mine = tasks[number % len(tasks)]
            runs.append((mine, classify(mine, matrix, dim, seed)))
            context.reporter.advance(1)
        scores.append(_averaged(matrix, runs, ranks))
    context.reporter.end()
    return Evaluation(
        kind=kind,
        store=task.store.where,
        feature_set=task.matrix.feature_set,
        protocol={
            "split": split,
            "seeds": list(seeds),
            "blocks": task.matrix.made_of,
            "pca_dims": list(options.pca_dims),
        }
        | protocol,
        excluded=task.excluded,
        unseen=unseen,
        scores=tuple(scores),
    )


def _averaged(
    matrix: FeatureMatrix, runs: list[tuple[Task, Outcome]], ranks: NDArray[np.int64] | None
) -> Score:
    """Average the metrics of the seeds."""
    measured = [
        classification_metrics(
            task.labels[task.split.test], outcome.predictions, task.classes, ranks
        )
        for task, outcome in runs
    ]
    (task, last), protocols = runs[-1], [outcome.protocol for _, outcome in runs]
    truth = task.labels[task.split.test]
    one = metric_intervals(truth, last.predictions, measured[0], ranks) if len(runs) == 1 else {}
    metrics, spread = over_runs(measured, one)
    return Score(
        features=matrix.features,
        dim=last.dim,
        n_train=last.n_train,
        n_test=len(truth),
        metrics=metrics,
        spread=spread,
        protocol=last.protocol if len(runs) == 1 else {"runs": protocols},
        fingerprints=matrix.fingerprints,
        contents=matrix.contents,
    )
