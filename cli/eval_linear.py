"""`fungi eval linear`."""

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
    numbers,
    one_of,
    pca_dims,
    show,
    words,
)


@explains_errors
def linear(
    store: StorePath,
    features: Features = None,
    pca: Pca = None,
    feature_set: FeatureSet = None,
    combinations: Combinations = "one",
    pca_dim: PcaDims = None,
    strengths: Annotated[
        str | None,
        typer.Option(help="Regularisations to choose from.  [default: the paper's five]"),
    ] = None,
    max_iter: Annotated[int, typer.Option(help="Of the solver.")] = 300,
    holdout: Holdout = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    kappa: Kappa = False,
    as_json: Json = False,
) -> None:
    """Train a linear probe on frozen features and test it.

    Multinomial logistic regression; the strength of the regularisation is chosen on validation
    rows (the split val, or a fifth of train), the final fit is on all training rows.

    \b
    Examples:
      fungi eval linear pets.fungi
      fungi eval linear pets.fungi --combinations nested --holdout 0.2
      fungi eval linear pets.fungi --strengths 1e-6,1e-5,1e-4 --json
    """
    from typing import get_args

    from fungistore.evaluation.linear import STRENGTHS, LinearOptions, evaluate_linear
    from fungistore.evaluation.reduction import Combinations as Kinds

    options = LinearOptions(
        features=words(features),
        pca=pca,
        feature_set=feature_set,
        combinations=cast("Kinds", one_of("--combinations", combinations, get_args(Kinds))),
        pca_dims=pca_dims(pca_dim),
        strengths=numbers("--strengths", strengths) or STRENGTHS,
        max_iter=max_iter,
        holdout=holdout,
        seed=seed,
        seeds=seeds,
        kappa=kappa,
    )
    reporter = ConsoleReporter()
    with stop_on_signals() as stop:
        done = evaluate_linear(store, options, context=Context(reporter, stop))
    show(done, done.save(Context(reporter)), as_json=as_json)
