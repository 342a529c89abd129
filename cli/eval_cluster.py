"""`fungi eval cluster`."""

from __future__ import annotations

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
def cluster(
    store: StorePath,
    features: Features = None,
    pca: Pca = None,
    feature_set: FeatureSet = None,
    combinations: Combinations = "nested",
    split: Annotated[
        str | None, typer.Option("--split", help="Cluster this split.  [default: all rows]")
    ] = None,
    niter: Annotated[int, typer.Option("--niter", help="Iterations of k-means.")] = 25,
    nredo: Annotated[
        int, typer.Option("--nredo", help="Runs of k-means; the tightest one counts.")
    ] = 5,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Cluster the images, one cluster a class, and compare the clusters with the classes.

    `matched acc` is the part of the images in the cluster matched with their class, `mean overlap`
    the mean of that part over classes; NMI and ARI need no matching. All times 100.

    \b
    Examples:
      fungi eval cluster pets.fungi
      fungi eval cluster pets.fungi --features embeddings,kl --combinations one --json
      fungi eval cluster pets.fungi --pca fungi512 --split test --nredo 10
    """
    from typing import get_args

    from fungistore.evaluation.cluster import ClusterOptions, evaluate_cluster
    from fungistore.evaluation.reduction import Combinations as Kinds

    reporter = ConsoleReporter()
    options = ClusterOptions(
        features=words(features),
        pca=pca,
        feature_set=feature_set,
        combinations=cast("Kinds", one_of("--combinations", combinations, get_args(Kinds))),
        split=split,
        niter=niter,
        nredo=nredo,
        seed=seed,
    )
    with stop_on_signals() as stop:
        done = evaluate_cluster(store, options, context=Context(reporter, stop))
    show(done, done.save(Context(reporter)), as_json=as_json)
