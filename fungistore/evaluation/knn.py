"""`fungi eval knn`: nearest-neighbour classification (FUNGI, tables 1, 2 and 8)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.engines.engine import Engine, Place
from fungistore.engines.pieces import ALONE, Make, Pieces, is_alone
from fungistore.errors import MismatchError
from fungistore.evaluation.neighbour_count import say_votes
from fungistore.evaluation.options import KnnOptions
from fungistore.evaluation.predictions import RANKED, Predictions
from fungistore.evaluation.reduction import Reduction, fit_reduction
from fungistore.evaluation.result import Evaluation
from fungistore.evaluation.runs import TableRuns
from fungistore.evaluation.table import Job, Outcome, evaluate_table, jobs_of
from fungistore.evaluation.task import Task, TaskRows
from fungistore.fingerprint import Config, digest_rows, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors, normalize
from fungistore.matrices.choices import Run
from fungistore.matrices.neighbours import Database, nearest, nearest_rows
from fungistore.matrices.products import TILE_ROWS
from fungistore.pca.components import Pca
from fungistore.pca.random_map import RandomMap
from fungistore.store.samples import Rows
from fungistore.store.scratch import Scratch, Tensors
from fungistore.store.store import Store

MOST_BLOCKS = 64  # of test rows a run, or a little more


def evaluate_knn(
    store: str | Path,
    options: KnnOptions = KnnOptions(),
    *,
    engine: Engine = ALONE,
    context: Context = DEFAULT,
) -> Evaluation:
    """Classify the test rows by their nearest training rows.

    The majority vote gives scikit-learn's `KNeighborsClassifier` predictions. Of fewer training
    rows than k all vote, which is said before they do; the score's protocol has their number.
    Memory is bounded: rows beyond 1 GB are read from the store again and again.

    Args:
        store: the store's directory.
        options: what to evaluate, and how.
        engine: who classifies which test rows; the scores are the same. Workers leave what they
            find in the store for a while, so they need to write into it.
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
        predictions = KnnClassifier(task, matrix, reduction.map, options).of(task.split.test)
        return Outcome(predictions, reduction.dim, reduction.protocol | _fewer(task, options))

    protocol = _protocol(options)
    if is_alone(engine):
        return evaluate_table(store, "knn", options, protocol, classify, context, check=check)
    with closing(_Workers(options, engine, context)) as workers:
        found = evaluate_table(
            store,
            "knn",
            options,
            protocol,
            workers.classify,
            context,
            check=check,
            prepare=workers.begin,
        )
        workers.end()
    return found


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
    device: torch.device | None = None,
) -> Predictions:
    """Classify queries [q, d] by the labelled rows of a database.

    Args:
        database: training rows, as `nearest` takes them.
        labels: of the whole sample table.
        queries: vectors [q, d].
        options: k, vote and temperature.
        classes: all labels of the database, ascending: the share of each is given, too.
        device: where the products run; default: a GPU if there is one.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.vote == "majority":
        rows = nearest_rows(queries, database, options.k, device)
        return vote(labels[rows], classes=classes)
    found = nearest(queries, database, options.k, device)
    cosines = 1 - found.distances**2 / 2
    lower = cosines - cosines.max(axis=1, keepdims=True)  # or a low temperature leaves infinities
    return vote(labels[found.rows], np.exp(lower / options.temperature), classes)


class KnnClassifier:
    """Classifies test rows by the training rows, which are read once where they are few.

    Args:
        task: the rows.
        matrix: the features.
        reduction: what vectors go through first.
        options: k, vote and temperature.
        device: where the products run; default: a GPU if there is one.
    """

    def __init__(
        self,
        task: Task,
        matrix: FeatureMatrix,
        reduction: Pca | RandomMap | None,
        options: KnnOptions,
        device: torch.device | None = None,
    ) -> None:
        train = task.split.train
        self._task, self._matrix, self._reduction, self._device = task, matrix, reduction, device
        self._options = replace(options, k=min(options.k, len(train)))
        self._database = TaskRows(matrix, train, self._transform)
        self._classes = np.unique(task.labels[train])

    def of(self, rows: Rows) -> Predictions:
        """Classify ascending test rows, as many at a time as are read at a time."""
        labels, options, classes = self._task.labels, self._options, self._classes
        parts = [
            predict(self._database, labels, queries, options, classes, self._device)
            for _, queries in TaskRows(self._matrix, rows, self._transform)
        ]
        return Predictions.joined(parts)

    def _transform(self, vectors: Vectors) -> Vectors:
        vectors = self._reduction.transform(vectors) if self._reduction else vectors
        if self._options.vote == "weighted":
            normalize(vectors)
        return vectors


class _Workers:
    """Hands the test rows of all runs to the workers of an engine, block by block."""

    def __init__(self, options: KnnOptions, engine: Engine, context: Context) -> None:
        self._options, self._engine, self._context = options, engine, context
        self._made: Generator[Tensors] | None = None
        self._reductions: list[Reduction] = []
        self._counts: list[int] = []
        self._scratch: Scratch

    def begin(self, runs: TableRuns, jobs: list[Job]) -> None:
        """Say what is to be done; it begins when the first of it is asked for."""
        store, plan = runs.first.store, _Plan(runs, jobs, self._options)
        self._counts += plan.counts
        pieces = Pieces(
            f"knn-{plan.key}",
            sum(plan.counts),
            "blocks of test rows",
            f"{__name__}:{open_blocks.__name__}",
            {"options": self._options.to_config(), "key": plan.key},
        )
        self._scratch = pieces.scratch(store)
        self._made = pieces.made(self._engine, store, self._context, self._maps(runs, jobs))

    def _maps(self, runs: TableRuns, jobs: list[Job]) -> Iterator[tuple[str, Tensors]]:
        """Fit the PCAs of all runs here, one after the other; the workers do the rest."""
        for number, job in enumerate(jobs):
            train = runs.task(job.shots, job.run).split.train
            reduction = fit_reduction(
                job.matrix, train, job.dim, self._context, self._options, job.run.seed
            )
            self._reductions.append(replace(reduction, map=None))
            yield _map_name(number), _tensors_of(reduction.map)

    def classify(self, task: Task, matrix: FeatureMatrix, dim: int | None, run: Run) -> Outcome:
        """Return what the workers found in the next run."""
        assert self._made is not None
        parts = [Predictions(**tensors) for tensors in islice(self._made, self._counts.pop(0))]
        reduction = self._reductions.pop(0)
        protocol = reduction.protocol | _fewer(task, self._options)
        return Outcome(Predictions.joined(parts), reduction.dim, protocol)

    def end(self) -> None:
        """Remove what the workers left."""
        self._scratch.remove()

    def close(self) -> None:
        """Let go of the store, also where a run has ended otherwise and a traceback is kept."""
        if self._made is not None:
            self._made.close()


class _Plan:
    """What the runs of a table classify, the same for all who open the same store.

    Attributes:
        counts: blocks of test rows of each run.
        key: of the features, of the rows to learn from and to test on, of the blocks, and of the
            settings.
    """

    def __init__(self, runs: TableRuns, jobs: list[Job], options: KnnOptions) -> None:
        self._runs, self._jobs = runs, jobs
        self.counts = [len(self.blocks(number)) for number in range(len(jobs))]
        config = options.to_config()
        config.pop("plot", None)
        matrix = runs.first.matrix
        self.key = fingerprint(
            {
                "options": config,
                "inputs": matrix.fingerprints,
                "contents": {name: asdict(one) for name, one in matrix.contents.items()},
                "rows": [
                    [digest_rows(split.train), digest_rows(split.test)]
                    for split in (runs.task(job.shots, job.run).split for job in jobs)
                ],
                "blocks": self.counts,
                "labels": digest_rows(runs.first.labels.astype(np.int64)),
            }
        )

    def blocks(self, number: int) -> list[Rows]:
        """Return the test rows of a run in blocks, each classified as it would be among all."""
        job = self._jobs[number]
        test = self._runs.task(job.shots, job.run).split.test
        return query_blocks(test, job.matrix.stream_rows)

    def classifier(
        self,
        number: int,
        reduction: Pca | RandomMap | None,
        options: KnnOptions,
        device: str | None,
    ) -> KnnClassifier:
        """Return what classifies the blocks of a run."""
        job = self._jobs[number]
        place = None if device in (None, "auto") else torch.device(str(device))
        task = self._runs.task(job.shots, job.run)
        return KnnClassifier(task, job.matrix, reduction, options, place)


def query_blocks(rows: Rows, stream_rows: int) -> list[Rows]:
    """Cut test rows where their vectors do not depend on what is read with them.

    That is between what is read at a time and, within, between tiles of a product.

    Args:
        rows: ascending.
        stream_rows: that are read at a time.
    """
    least = TILE_ROWS * -(-len(rows) // (TILE_ROWS * MOST_BLOCKS))
    reads = np.flatnonzero(np.diff(rows // stream_rows)) + 1
    cuts = [0]
    for first, last in pairwise([0, *reads.tolist(), len(rows)]):
        for cut in (first, *range(first + TILE_ROWS, last, TILE_ROWS)):
            if cut - cuts[-1] >= least:
                cuts.append(cut)
    return np.split(rows, cuts[1:])


def open_blocks(
    store: Store, arguments: Config, scratch: Scratch, place: Place, context: Context
) -> Make:
    """Open the table's runs in a worker, and return what classifies a block of test rows.

    Raises:
        MismatchError: the store is not as it was when the work was divided.
    """
    options = KnnOptions.from_config(arguments["options"])
    runs = TableRuns(store, options)
    plan = _Plan(runs, [job for jobs in jobs_of(runs, options) for job in jobs], options)
    if plan.key != arguments["key"]:
        raise MismatchError(
            "a worker divides the test rows otherwise: the store has changed since, or this is "
            "another version of fungi",
            where=store.where,
            expected=arguments["key"],
            found=plan.key,
            hint="run the same command again",
        )
    starts = np.cumsum([0, *plan.counts])

    @lru_cache(maxsize=1)  # blocks come in order, so those of one run read its rows once
    def classifier(number: int) -> KnnClassifier:
        reduction = _map_of(scratch.read(_map_name(number)))
        return plan.classifier(number, reduction, options, place.device)

    def make(piece: int) -> Tensors:
        number = int(np.searchsorted(starts, piece, side="right")) - 1
        block = plan.blocks(number)[piece - starts[number]]
        found = classifier(number).of(block)
        chances = {} if found.chances is None else {"chances": found.chances}
        return {"ranked": found.ranked, "columns": found.columns} | chances

    return make


def _map_name(number: int) -> str:
    return f"map-{number}"


def _tensors_of(reduction: Pca | RandomMap | None) -> Tensors:
    """Return what workers need of a run's map; nothing where it has none."""
    if reduction is None:
        return {}
    if isinstance(reduction, RandomMap):
        return {"components": reduction.components}
    return {
        "mean": reduction.mean,
        "components": reduction.components,
        "explained_variance": reduction.explained_variance,
    }


def _map_of(tensors: Tensors) -> Pca | RandomMap | None:
    """Return what transforms like the map that gave the tensors."""
    if not tensors:
        return None
    if "mean" not in tensors:
        return RandomMap((), **tensors)
    return Pca((), **tensors, total_variance=0.0, n_samples=0)


def _fewer(task: Task, options: KnnOptions) -> Config:
    """Return what a protocol says where fewer rows vote than were asked for."""
    rows = len(task.split.train)
    return {"k": rows} if rows < options.k else {}


def _protocol(options: KnnOptions) -> Config:
    """Return what decides the scores, beside what a table says."""
    protocol: Config = {"k": options.k, "vote": options.vote}
    if options.vote == "weighted":
        protocol |= {"metric": "cosine", "temperature": options.temperature}
    else:
        protocol["metric"] = "euclidean"
    return protocol
