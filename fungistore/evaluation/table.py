"""A table of scores: combinations of features, with and without PCA, by shots, over seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.evaluation.curve import draw_curve
from fungistore.evaluation.intervals import metric_intervals, over_runs
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.options import TableOptions
from fungistore.evaluation.ordered import ranks_of, require_order
from fungistore.evaluation.paired import Combination, Hits, paired_difference
from fungistore.evaluation.plots import check_plot, save_figure
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.reduction import called, combine
from fungistore.evaluation.result import Evaluation, Score, class_names
from fungistore.evaluation.runs import Shots, TableRuns
from fungistore.evaluation.shots import say_few
from fungistore.evaluation.task import Task, say_split, say_unseen
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.matrices.choices import Run


@dataclass(frozen=True)
class Outcome:
    """What a classifier made of one combination and one run.

    Attributes:
        predictions: of the test rows.
        dim: width of its vectors.
        protocol: what it decided on the way.
    """

    predictions: Predictions
    dim: int
    protocol: Config


@dataclass(frozen=True)
class Job:
    """One combination and one run of a table.

    Attributes:
        matrix: the features.
        dim: width of the PCA that is asked for.
        shots: rows of each class to learn from.
        run: the seeds.
    """

    matrix: FeatureMatrix
    dim: int | None
    shots: Shots
    run: Run


def jobs_of(runs: TableRuns, options: TableOptions) -> list[list[Job]]:
    """Return what a table classifies: for each of its rows the jobs that it averages."""
    return [
        [Job(matrix, dim, shots, run) for run in runs.of(shots)]
        for features in combine(runs.first.matrix.features, options.combinations)
        for matrix in [runs.first.matrix.subset(features)]
        for dim in options.pca_dims
        for shots in options.shots
    ]


# gets the task of a run, whose training rows may be shots, the features, the width of the PCA
Classifier = Callable[[Task, FeatureMatrix, int | None, Run], Outcome]


def evaluate_table(
    store: str | Path,
    kind: str,
    options: TableOptions,
    protocol: Config,
    classify: Classifier,
    context: Context,
    *,
    check: Callable[[Task], None] = lambda task: None,
    prepare: Callable[[TableRuns, list[Job]], None] = lambda runs, jobs: None,
    draws_validation: bool = False,
) -> Evaluation:
    """Run a classifier for every combination, number of shots and seed, and score it.

    Args:
        store: the store's directory.
        kind: name of the evaluation.
        options: which combinations, shots, seeds and rows.
        protocol: what else decides the scores.
        classify: the classifier.
        context: its reporter is told what happens, its stop asked between runs.
        check: is shown what each run learns from, before anything is run.
        prepare: is shown all that is going to be classified, in its order.
        draws_validation: whether the classifier draws validation rows where the store has none.

    Raises:
        UsageError: several seeds, of which every one would give the same, or a plot that cannot
            be saved.
    """
    if options.plot is not None:
        check_plot(options.plot)
    runs = TableRuns(store, options, draws_validation=draws_validation)
    task, tasks = runs.first, runs.tasks
    split = say_split(task.split, context, len(tasks))
    unseen = say_unseen(max((one.unseen for one in tasks), key=lambda one: one.rows), context)
    names = class_names(task.store, task.present.tolist())
    order, ranks = None, None
    if options.kappa or options.order:
        order = require_order(names, options.order, "--kappa")
        present = np.unique(task.labels[task.split.test])
        context.reporter.notice(
            f"quadratic kappa with the classes as {' < '.join(order)}"
            if len(present) > 1
            else "no quadratic kappa: the test rows are of one class"
        )
        protocol = protocol | {"order": list(order)}
        ranks = np.zeros(len(task.store.manifest.labels), np.int64)  # by label
        ranks[task.present] = ranks_of(names, order)  # classes that no row has need none
    for shots in options.shots:
        say_few(task, shots, options.shot_rule, context)
        for run in runs.of(shots):
            check(runs.task(shots, run))
    table = jobs_of(runs, options)
    prepare(runs, [job for jobs in table for job in jobs])
    scores: list[Score] = []
    firsts: dict[int | str, Combination] = {}  # by number of shots
    context.reporter.begin("runs", sum(map(len, table)))
    for jobs in table:
        matrix, dim, shots = jobs[0].matrix, jobs[0].dim, jobs[0].shots
        done = []
        for job in jobs:
            context.stop_if_asked()
            mine = runs.task(shots, job.run)
            done.append((mine, classify(mine, matrix, dim, job.run)))
            context.reporter.advance(1)
        own: Config = {"shots": shots} if len(options.shots) > 1 else {}
        one = _averaged(matrix, done, ranks, own)
        hits = Combination(called(matrix.features, dim), tuple(starmap(_hits, done)))
        against = paired_difference(hits, firsts.setdefault(shots, hits))
        scores.append(replace(one, difference=against))
    context.reporter.end()
    evaluation = Evaluation(
        kind=kind,
        store=task.store.where,
        feature_set=task.matrix.feature_set,
        protocol={
            "split": split,
            **runs.protocol,
            "blocks": task.matrix.made_of,
            "pca_dims": list(options.pca_dims),
        }
        | protocol,
        excluded=task.excluded,
        unseen=unseen,
        scores=tuple(scores),
    )
    if options.plot is not None:
        save_figure(draw_curve(evaluation), options.plot)
        context.reporter.notice(f"plot: {options.plot}")
    return evaluation


def _hits(task: Task, outcome: Outcome) -> Hits:
    rows = task.split.test
    return Hits(rows, outcome.predictions.labels == task.labels[rows])


def _averaged(
    matrix: FeatureMatrix,
    runs: list[tuple[Task, Outcome]],
    ranks: NDArray[np.int64] | None,
    own: Config,
) -> Score:
    """Average the metrics of the runs."""
    measured = [
        classification_metrics(
            task.labels[task.split.test], outcome.predictions, task.classes, ranks
        )
        for task, outcome in runs
    ]
    (task, last), protocols = runs[-1], [outcome.protocol for _, outcome in runs]
    protocol = last.protocol if len(runs) == 1 else {"runs": protocols}
    truth = task.labels[task.split.test]
    one = metric_intervals(truth, last.predictions, measured[0], ranks) if len(runs) == 1 else {}
    metrics, spread = over_runs(measured, one)
    return Score(
        features=matrix.features,
        dim=last.dim,
        n_train=len(task.split.train),
        n_test=len(truth),
        metrics=metrics,
        spread=spread,
        protocol=own | protocol,
        fingerprints=matrix.fingerprints,
        contents=matrix.contents,
    )
