"""`fungi export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from fungistore.machine.context import Context

from .console import ConsoleReporter, explains_errors, result, result_json, stop_on_signals
from .evaluation import Features, FeatureSet, Json, Pca, StorePath, words

if TYPE_CHECKING:
    from fungistore.exchange.export import ExportResult
    from fungistore.exchange.formats import Format


@explains_errors
def export(
    store: StorePath,
    file: Annotated[Path, typer.Argument(help="A .npy, .parquet, .h5 or .hdf5 file to write.")],
    features: Features = None,
    pca: Pca = None,
    feature_set: FeatureSet = None,
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="npy, parquet or hdf5.  [default: by the suffix]"),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    raw: Annotated[
        bool, typer.Option("--raw", help="Stored values, instead of blocks of length one.")
    ] = False,
    separate: Annotated[
        bool, typer.Option("--separate", help="A matrix a feature, named after it (not .npy).")
    ] = False,
    keep_unusable: Annotated[
        bool, typer.Option("--keep-unusable", help="Rows without features stay, as NaN.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    as_json: Json = False,
) -> None:
    """Write features, ids, labels and splits into a .npy, Parquet or HDF5 file.

    Blocks are divided by their norm and put side by side, as every other command reads them. A
    .npy file gets a table of its rows beside it, NAME.samples.parquet.

    \b
    Examples:
      fungi export pets.fungi pets.npy --features embeddings,kl
      fungi export pets.fungi train.h5 --split train --separate
      fungi export pets.fungi pets.parquet --features embeddings --raw --dtype float16
    """
    with stop_on_signals() as stop:
        from fungistore.exchange.export import ExportOptions, export_features

        options = ExportOptions(
            features=words(features),
            pca=pca,
            feature_set=feature_set,
            split=split,
            format=cast("Format | None", format_),
            dtype=cast(Literal["float32", "float16"], dtype),
            raw=raw,
            separate=separate,
            keep_unusable=keep_unusable,
        )
        done = export_features(
            store, file, options, overwrite=force, context=Context(ConsoleReporter(), stop)
        )
    result_json(done.to_json()) if as_json else _show(done)


def _show(done: ExportResult) -> None:
    matrices = ", ".join(f"{name} [{done.rows}, {dim}]" for name, dim in done.widths.items())
    result(
        f"{', '.join(done.files)}: {matrices} of {done.dtype}; "
        f"{' + '.join(done.features)} of {done.feature_set}"
    )
