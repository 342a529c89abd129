"""`fungi eval retrieval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from fungistore.machine.context import Context

from .console import ConsoleReporter, explains_errors, stop_on_signals
from .evaluation import (
    Combinations,
    Features,
    FeatureSet,
    Json,
    Pca,
    Seed,
    StorePath,
    one_of,
    show,
    words,
)


@explains_errors
def retrieval(
    store: StorePath,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            "--ground-truth",
            help="Of revisited Oxford or Paris: gnd_roxford5k.pkl, or JSON of the same shape.  "
            "[default: images of the same label should be found]",
        ),
    ] = None,
    features: Features = None,
    pca: Pca = None,
    feature_set: FeatureSet = None,
    combinations: Combinations = "nested",
    queries: Annotated[
        int | None, typer.Option("--queries", help="By label: this many queries.  [default: all]")
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="dot (the paper's raw product), or cosine.")
    ] = "dot",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Rank the images for each query: mean average precision, and precision at 1, 5 and 10.

    With --ground-truth, the queries, images and difficulties (easy, medium, hard) of revisited
    Oxford or Paris; an image is found by its file name. Without, the test split searches the train
    split, or every image all others. All numbers times 100.

    \b
    Examples:
      fungi eval retrieval pets.fungi
      fungi eval retrieval pets.fungi --queries 1000 --combinations one --json
      fungi eval retrieval oxford.fungi --ground-truth gnd_roxford5k.pkl --pca fungi512
    """
    from typing import get_args

    from fungistore.evaluation.reduction import Combinations as Kinds
    from fungistore.evaluation.retrieval import Metric, RetrievalOptions, evaluate_retrieval

    options = RetrievalOptions(
        features=words(features),
        pca=pca,
        feature_set=feature_set,
        combinations=cast("Kinds", one_of("--combinations", combinations, get_args(Kinds))),
        ground_truth=ground_truth,
        queries=queries,
        metric=cast("Metric", one_of("--metric", metric, get_args(Metric))),
        seed=seed,
    )
    reporter = ConsoleReporter()
    with stop_on_signals() as stop:
        done = evaluate_retrieval(store, options, context=Context(reporter, stop))
    saved = done.save(Context(reporter))
    show(done, saved, as_json=as_json, tell=("difficulty",))
