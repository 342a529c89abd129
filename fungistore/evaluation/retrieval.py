"""Image retrieval: the revisited Oxford and Paris protocol, and retrieval by label.

FUNGI, section 4.4: L2-normalised blocks side by side, scores by the dot product as the vectors are
(after a PCA they are no longer of length one, and are not made so again), `cosine` on request.

Memory: queries go in blocks, so that the scores of a block against the whole database take at most
SCORE_BYTES; the database is read unit by unit for each block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.evaluation.ground_truth import GroundTruth, QueryTruth, read_ground_truth
from fungistore.evaluation.options import QUERIES, RetrievalMetric, RetrievalOptions
from fungistore.evaluation.ranking import (
    Ranks,
    capped_precision,
    mean_precision,
    precision_at,
    ranks_without_junk,
    trapezoid_precision,
)
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
from fungistore.matrices.blocks import FeatureMatrix, normalize, open_features
from fungistore.matrices.seen import refuse_seen
from fungistore.matrices.splits import choose_split
from fungistore.names import suffix_of
from fungistore.pca.stage import refuse_leak
from fungistore.quantities import counted, duration
from fungistore.randomness import Stream
from fungistore.store.coverage import Coverage, Mask
from fungistore.store.samples import Rows
from fungistore.store.store import Store

CUTS = (1, 5, 10)
SCORE_BYTES = 256_000_000
LONG_SECONDS = 60.0
NAMES_SHOWN = 3

Scores = NDArray[np.float32]


def evaluate_retrieval(
    store: str | Path,
    options: RetrievalOptions = RetrievalOptions(),
    *,
    context: Context = DEFAULT,
) -> Evaluation:
    """Rank a database for each query, and report mAP and the mean precision at 1, 5 and 10.

    With ground truth, the revisited protocol: one score for each difficulty, named in
    `Score.protocol`. Easy: easy images count, hard ones are junk; medium: both count; hard: hard
    images count, easy ones are junk. Junk is taken out of the ranking; a query without anything to
    find at a difficulty is left out there. mAP is the mean of `trapezoid_precision`, mP@k that of
    `capped_precision`. An image's name is its sample id without folder and extension. A database
    image without usable features stays among what should be found, and is never found.

    Without ground truth, retrieval by label: the queries are the labelled rows of the test split
    and the database those of the train split, where the store has both; else every labelled row
    searches all others. Images of the query's class should be found; mAP is the mean of
    `mean_precision`, mP@k the part of the k best that are of the class. Of more than 10,000 queries
    as many are chosen, unless `options.queries` says how many.

    Args:
        store: the store's directory.
        options: what to evaluate, and how.
        context: its reporter is told what happens, its stop asked between blocks of queries.

    Raises:
        UsageError: a name is unknown, the ground truth is not one or names images that the store
            lacks, or nothing is there to retrieve.
        MismatchError: the PCA was fitted on queries that are not in the database.
        StoreError: the store is damaged.
    """
    RetrievalOptions.accept(options)
    opened = Store.open(store, keep_removed=options.keep_removed)
    matrix = open_features(
        opened, options.features, pca=options.pca, feature_set=options.feature_set
    )
    coverage = matrix.coverage()
    truth = options.ground_truth
    if truth is None:
        search = _by_label(opened, coverage, options, context)
    else:
        search = _revisited(opened, coverage.usable, read_ground_truth(truth), truth)
    refuse_seen(opened, matrix.arrays, search.queries)
    outside = np.setdiff1d(search.queries, search.database)
    if len(outside):
        refuse_leak(matrix, outside)
    scores: list[Score] = []
    chosen = combine(matrix.features, options.combinations)
    total, done, began = len(chosen) * len(search.queries), 0, time.perf_counter()
    context.reporter.begin("queries", total)
    for features in chosen:
        blocks = _score_blocks(matrix.subset(features), search, options.metric)
        totals = _Totals(search)
        for first, block in blocks:
            context.stop_if_asked()
            totals.add(first, block)
            context.reporter.advance(len(block))
            if not done:
                _say_time(time.perf_counter() - began, len(block), total, search, context)
            done += len(block)
        scores += totals.scores(matrix.subset(features))
    context.reporter.end()
    protocol = {
        **search.protocol,
        "metric": options.metric,
        "cuts": list(CUTS),
        "blocks": matrix.made_of,
    }
    return Evaluation(
        "retrieval", opened.where, matrix.feature_set, protocol, search.excluded, tuple(scores)
    )


@dataclass(frozen=True)
class _Problem:
    """What one query should find, at one difficulty: masks over the database, and the total."""

    positive: Mask
    junk: Mask
    positives: int


@dataclass(frozen=True)
class _Search:
    """Queries and a database, whatever the protocol.

    Attributes:
        queries: row of each query, ascending.
        database: rows of the database, ascending.
        problems: for a query's index, what it should find by the name of a difficulty, which is
            "" where there is one; a difficulty without anything to find is left out.
        difficulties: their names.
        average: average precision from ranks and the number of positives.
        precision_at: precision from ranks, the number of positives, and a cut.
        protocol, excluded: as in Evaluation.
    """

    queries: Rows
    database: Rows
    problems: Callable[[int], Mapping[str, _Problem]]
    difficulties: tuple[str, ...]
    average: Callable[[Ranks, int], float]
    precision_at: Callable[[Ranks, int, int], float]
    protocol: Config
    excluded: Mapping[str, int]


def _say_time(seconds: float, done: int, total: int, search: _Search, context: Context) -> None:
    """Say how long all queries take, by the time of the first ones, where that is long."""
    needed = seconds * total / done
    if needed > LONG_SECONDS:
        context.reporter.notice(
            f"about {duration(needed)} for {counted(len(search.queries), 'query')} of "
            f"{counted(len(search.database), 'image')}; --queries takes fewer"
        )


def _by_label(
    store: Store, coverage: Coverage, options: RetrievalOptions, context: Context
) -> _Search:
    seed = options.rows_seed
    labels = store.samples.labels()
    splits = store.samples.splits()
    everything = np.arange(len(labels))
    if "train" in splits and ("test" in splits or "val" in splits):
        split = choose_split(store, holdout=None, seed=seed)
        pool, database, source = split.test, split.train, split.description
        outside = split.outside
    else:
        pool, database, source = everything, everything, {"from": "all others"}
        outside = 0
    considered = np.union1d(pool, database)
    fit = coverage.usable & (labels >= 0)
    excluded = count_excluded(considered, labels >= 0, coverage, outside)
    pool, database = pool[fit[pool]], database[fit[database]]
    classes = len(np.unique(labels[database]))
    refuse_too_few("retrieval needs images of several classes", classes, 2, LABEL_HINT)
    totals = np.bincount(labels[database], minlength=int(labels.max()) + 1)
    to_find = totals[labels[pool]] - np.isin(pool, database)
    excluded["queries with no other image of their class"] = int((to_find == 0).sum())
    pool = pool[to_find > 0]
    refuse_too_few("no query has an image to find", len(pool), 1, LABEL_HINT)
    count, every = options.queries, len(pool)
    if count is None and every > QUERIES:
        count = QUERIES
        context.reporter.notice(
            f"{count} of {counted(every, 'query')}, chosen by the seed {seed}; "
            f"--queries {every} takes all"
        )
    if count is not None:
        chosen = Stream(seed, "retrieval", "queries").choice(every, min(count, every))
        pool = np.sort(pool[chosen])
    classes_of = labels[database]

    def problems(query: int) -> Mapping[str, _Problem]:
        itself = database == pool[query]
        positive = (classes_of == labels[pool[query]]) & ~itself
        return {"": _Problem(positive, itself, int(positive.sum()))}

    protocol: Config = {"relevant": "same label", "split": source, "average_precision": "mean"}
    if count is not None:
        protocol |= {"queries": len(pool), "of_queries": every, "seed": seed}
    return _Search(
        pool, database, problems, ("",), mean_precision, precision_at, protocol, excluded
    )


def _revisited(store: Store, usable: Mask, truth: GroundTruth, path: Path) -> _Search:
    rows = _rows_by_name(store, truth, path)
    images = np.array([rows[name] for name in truth.images], np.int64)
    readable = usable[images]
    order = np.argsort(images)
    order = order[readable[order]]
    column_of = np.full(len(images), -1)
    column_of[order] = np.arange(len(order))
    asked = sorted(truth.queries, key=lambda query: rows[query.name])
    queries = [query for query in asked if usable[rows[query.name]]]
    refuse_too_few("no query has usable features", len(queries), 1, "fungi extract completes them")

    def mask(positions: NDArray[np.int64]) -> Mask:
        chosen = np.zeros(len(order), bool)
        columns = column_of[positions]
        chosen[columns[columns >= 0]] = True
        return chosen

    def problems(number: int) -> Mapping[str, _Problem]:
        found = {}
        for name, (positive, junk) in _difficulties(queries[number]).items():
            if len(positive):
                found[name] = _Problem(mask(positive), mask(junk), len(positive))
        return found

    excluded = {
        "database images without usable features (never found)": int((~readable).sum()),
        "queries without usable features": len(asked) - len(queries),
    }
    return _Search(
        queries=np.array([rows[query.name] for query in queries], np.int64),
        database=images[order],
        problems=problems,
        difficulties=("easy", "medium", "hard"),
        average=trapezoid_precision,
        precision_at=capped_precision,
        protocol={
            "relevant": "ground truth",
            "ground_truth": {"file": path.name, "digest": truth.digest},
            "images": len(images),
            "queries": len(asked),
            "average_precision": "trapezoid",
        },
        excluded=excluded,
    )


def _difficulties(
    query: QueryTruth,
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (positions to find, positions of junk) by difficulty."""
    return {
        "easy": (query.easy, np.concatenate([query.junk, query.hard])),
        "medium": (np.concatenate([query.easy, query.hard]), query.junk),
        "hard": (query.hard, np.concatenate([query.junk, query.easy])),
    }


def _rows_by_name(store: Store, truth: GroundTruth, path: Path) -> dict[str, int]:
    suffixes = store.modality.suffixes
    names = [*truth.images, *(query.name for query in truth.queries)]
    wanted = {_stem(name, suffixes): name for name in names}
    found: dict[str, int] = {}
    for row, sample_id in enumerate(store.samples.ids()):
        name = wanted.get(_stem(sample_id, suffixes))
        if name is not None and name in found:
            raise UsageError(
                f"two samples have the name {name!r} of the ground truth",
                where=store.where,
                found=f"rows {found[name]} and {row}",
                hint="extract the images of one data set into a store of its own",
            )
        if name is not None:
            found[name] = row
    missing = [name for name in dict.fromkeys(names) if name not in found]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {counted(len(set(names)), 'image')} of the ground truth "
            "are not in the store",
            where=store.where,
            expected="sample ids that end in the names of the ground truth, extension aside",
            found=f"{path.name} names {', '.join(missing[:NAMES_SHOWN])}"
            + (", ..." if len(missing) > NAMES_SHOWN else ""),
            hint="extract the folder with database and query images: fungi extract FOLDER STORE",
        )
    return found


def _stem(name: str, suffixes: Collection[str]) -> str:
    last = name.rsplit("/", 1)[-1]
    return last.rpartition(".")[0] if suffix_of(last) in suffixes else last


class _Totals:
    """Sums of the metrics over queries, by difficulty."""

    def __init__(self, search: _Search) -> None:
        self._search = search
        self._sums = {name: np.zeros(1 + len(CUTS)) for name in search.difficulties}
        self._counts = dict.fromkeys(search.difficulties, 0)

    def add(self, first: int, block: Scores) -> None:
        """Add queries from number `first` on, by their scores [queries, database]."""
        search = self._search
        for number, scores in enumerate(block, start=first):
            order = np.argsort(-scores, kind="stable")  # ties: in the database's order
            for name, problem in search.problems(number).items():
                ranks = ranks_without_junk(order, problem.positive, problem.junk)
                self._sums[name] += [
                    search.average(ranks, problem.positives),
                    *(search.precision_at(ranks, problem.positives, cut) for cut in CUTS),
                ]
                self._counts[name] += 1

    def scores(self, matrix: FeatureMatrix) -> Iterator[Score]:
        """Yield a score for each difficulty; one that no query has is without metrics."""
        names = ("map", *(f"mp@{cut}" for cut in CUTS))
        for difficulty, count in self._counts.items():
            means = (self._sums[difficulty] / max(count, 1)).tolist()
            yield Score(
                features=matrix.features,
                dim=matrix.dim,
                n_train=len(self._search.database),
                n_test=count,
                metrics=dict(zip(names, means, strict=True)) if count else {},
                spread={},
                protocol={"difficulty": difficulty} if difficulty else {},
                fingerprints=matrix.fingerprints,
                contents=matrix.contents,
            )


def _score_blocks(
    matrix: FeatureMatrix, search: _Search, metric: RetrievalMetric
) -> Iterator[tuple[int, Scores]]:
    """Yield (number of the first query, similarity [queries of the block, database])."""
    queries, database = search.queries, search.database
    step = max(1, SCORE_BYTES // (4 * max(len(database), matrix.dim)))
    for first in range(0, len(queries), step):
        _, asked = matrix.load(queries[first : first + step])
        if metric == "cosine":
            normalize(asked)
        scores = np.empty((len(asked), len(database)), np.float32)
        column = 0
        for _, vectors in matrix.stream(database):
            if metric == "cosine":
                normalize(vectors)
            scores[:, column : column + len(vectors)] = asked @ vectors.T
            column += len(vectors)
        yield first, scores
