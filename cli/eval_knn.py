"""`fungi eval knn`."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from fungistore.machine.context import Context

from .console import ConsoleReporter, explains_errors, stop_on_signals
from .evaluation import (
    Combinations,
    Features,
    FeatureSet,
    Holdout,
    Json,
    Kappa,
    Pca,
    PcaDims,
    Seed,
    Seeds,
    StorePath,
    one_of,
    pca_dims,
    show,
    words,
)


@explains_errors
def knn(
    store: StorePath,
    features: Features = None,
    pca: Pca = None,
    feature_set: FeatureSet = None,
    k: Annotated[int, typer.Option("--k", help="Neighbours.")] = 20,
    vote: Annotated[
        str,
        typer.Option(help="majority (Euclidean), or weighted (cosine, DINO's)."),
    ] = "majority",
    temperature: Annotated[float, typer.Option(help="Of the weighted vote.")] = 0.07,
    shots: Annotated[
        int | None, typer.Option(help="Training rows of each class.  [default: all]")
    ] = None,
    shot_rule: Annotated[
        str, typer.Option(help="random, or first in the table's order (the paper's).")
    ] = "random",
    combinations: Combinations = "one",
    pca_dim: PcaDims = None,
    holdout: Holdout = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    kappa: Kappa = False,
    as_json: Json = False,
) -> None:
    """Classify the test rows by their nearest training rows.

    The majority vote predicts what scikit-learn's KNeighborsClassifier predicts, row for row.
    With a train and a test split in the store, or with --holdout.

    \b
    Examples:
      fungi eval knn pets.fungi
      fungi eval knn pets.fungi --combinations nested --pca-dim none,512
      fungi eval knn pets.fungi --shots 5 --seeds 3 --holdout 0.2
      fungi eval knn pets.fungi --features embeddings --vote weighted --json
    """
    from typing import get_args

    from fungistore.evaluation.knn import KnnOptions, ShotRule, Vote, evaluate_knn
    from fungistore.evaluation.reduction import Combinations as Kinds

    options = KnnOptions(
        features=words(features),
        pca=pca,
        feature_set=feature_set,
        k=k,
        vote=cast("Vote", one_of("--vote", vote, get_args(Vote))),
        temperature=temperature,
        shots=shots,
        shot_rule=cast("ShotRule", one_of("--shot-rule", shot_rule, get_args(ShotRule))),
        combinations=cast("Kinds", one_of("--combinations", combinations, get_args(Kinds))),
        pca_dims=pca_dims(pca_dim),
        holdout=holdout,
        seed=seed,
        seeds=seeds,
        kappa=kappa,
    )
    reporter = ConsoleReporter()
    with stop_on_signals() as stop:
        done = evaluate_knn(store, options, context=Context(reporter, stop))
    show(done, done.save(Context(reporter)), as_json=as_json)
