"""`fungi pca`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fungistore.machine.context import Context

from .console import (
    ConsoleReporter,
    explains_errors,
    next_step,
    result,
    result_json,
    stop_on_signals,
)
from .evaluation import Features, FeatureSet, Json, StorePath, words

if TYPE_CHECKING:
    from fungistore.pca.stage import PcaResult


@explains_errors
def pca(
    store: StorePath,
    features: Features = None,
    dim: Annotated[
        int | None,
        typer.Option(help="Components to keep.  [default: 512, or what the data determine]"),
    ] = None,
    fit_split: Annotated[str, typer.Option(help="Fit on this split, or all.")] = "train",
    holdout: Annotated[
        float | None, typer.Option(help="Fit on what is left by the same flag of fungi eval.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the holdout.")] = 0,
    name: Annotated[
        str | None, typer.Option(help="Name of the PCA.  [default: its features and dim]")
    ] = None,
    feature_set: FeatureSet = None,
    storage_dtype: Annotated[
        str, typer.Option(help="Of the coordinates: float16 or float32.")
    ] = "float16",
    restart: Annotated[bool, typer.Option("--restart", help="Delete this PCA first.")] = False,
    as_json: Json = False,
) -> None:
    """Fit an exact PCA of normalised, concatenated features, and store the coordinates.

    Fitted in one pass and bounded memory; the same command again transforms only new rows.

    \b
    Examples:
      fungi pca pets.fungi --features embeddings,kl,dino --dim 512
      fungi pca pets.fungi --holdout 0.2 --seed 0 --name half
      fungi eval knn pets.fungi --pca half --holdout 0.2 --seed 0
    """
    with stop_on_signals() as stop:  # the imports take a while
        from typing import cast, get_args

        from fungistore.errors import UsageError
        from fungistore.pca.stage import PcaOptions, StorageDtype, fit_pca

        if storage_dtype not in get_args(StorageDtype):
            expected = " or ".join(get_args(StorageDtype))
            raise UsageError(
                "no such type", where="--storage-dtype", expected=expected, found=storage_dtype
            )
        options = PcaOptions(
            features=words(features),
            dim=dim,
            fit_split=fit_split,
            holdout=holdout,
            seed=seed,
            name=name,
            feature_set=feature_set,
            storage_dtype=cast("StorageDtype", storage_dtype),
        )
        done = fit_pca(store, options, restart=restart, context=Context(ConsoleReporter(), stop))
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "index", str(store), "--pca", done.name)


def _show(done: PcaResult) -> None:
    result(f"{done.feature_set}/pca/{done.name}: {done.rows} rows of {done.dim}")
    result(
        f"from {' + '.join(done.features)} ({done.input_dim}), fitted on {done.fit['rows']} rows"
    )
    result(f"explained variance {done.explained_variance:.1%}")
    if done.unreadable:
        result(f"{done.unreadable} rows are NaN, as their features are")
