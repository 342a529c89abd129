"""`fungi index`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fungistore.machine.context import Context

from .console import (
    ConsoleReporter,
    duration,
    explains_errors,
    next_step,
    note,
    result,
    result_json,
    size,
    stop_on_signals,
)
from .evaluation import Features, FeatureSet, Json, Pca, StorePath, words

if TYPE_CHECKING:
    from fungistore.indexing.build import IndexResult

GIGABYTE = 1_000_000_000


@explains_errors
def index(
    store: StorePath,
    features: Features = None,
    pca: Pca = None,
    feature_set: FeatureSet = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the index.  [default: its features and metric]")
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            help="auto, Flat, HNSW32, IVF1024,Flat, IVF1024,PQ48 or any faiss factory string."
            "  [default: auto]"
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine or euclidean.  [default: cosine]")
    ] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(help="recall@10 up to which a search may look longer.  [default: 0.95]"),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="GB that auto reckons with.  [default: what is available]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the training sample and the recall.  [default: 42]")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Delete this index first.")] = False,
    as_json: Json = False,
) -> None:
    """Build a faiss index of features for `fungi search`; run it again to add what is new.

    Its recall is measured against exact search, on queries that it was not trained on.

    \b
    Examples:
      fungi index pets.fungi
      fungi index pets.fungi --features embeddings,kl --metric euclidean
      fungi index pets.fungi --pca half --factory HNSW32 --name graph

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 4 another index of that name, or changed features,
    5 damaged store, 75 stopped by SIGTERM (run again), 130 ^C.
    """
    with stop_on_signals() as stop:
        from typing import cast

        from fungistore.indexing.build import build_index
        from fungistore.indexing.options import IndexOptions, Metric

        options = IndexOptions(
            features=words(features),
            pca=pca,
            feature_set=feature_set,
            name=name,
            factory=factory,
            metric=cast("Metric | None", metric),
            seed=seed,
            target_recall=target_recall,
            memory_bytes=None if memory is None else int(memory * GIGABYTE),
        )
        reporter = ConsoleReporter()
        done = build_index(store, options, restart=restart, context=Context(reporter, stop))
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "search", str(store), "QUERY", "--index", done.index.name)


def _show(done: IndexResult) -> None:
    record = done.index
    recall = "recall not measured: too few rows"
    if record.recall is not None:
        recall = "exact"
        if record.recall.queries:
            effort = "".join(f", {name}={value}" for name, value in record.effort.items())
            value, queries = 100 * record.recall.value, record.recall.queries
            recall = f"recall@{record.recall.k} {value:.1f} % on {queries} queries{effort}"
    result(
        f"{record.feature_set}: index {record.name}, {record.vectors} vectors of {record.dim} "
        f"values, {record.metric}, {record.factory}, {size(record.files['vectors'].bytes)}; "
        f"{recall}; {done.added} added in {duration(done.seconds)}"
    )
    if record.excluded:
        note(f"excluded: {record.excluded} rows without usable features")
    if done.missing:
        note(f"not extracted yet: {done.missing} rows; the same command adds them later")
