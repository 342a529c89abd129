"""`fungi import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from fungistore.machine.context import Context

from .console import (
    SKIPPED_INPUTS,
    ConsoleReporter,
    explains_errors,
    next_step,
    result,
    result_json,
    stop_on_signals,
)
from .evaluation import Json, StorePath

if TYPE_CHECKING:
    from fungistore.exchange.formats import Format
    from fungistore.exchange.import_options import ImportResult


@explains_errors
def import_features(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help=".npy, .parquet or .h5; rows follow each other."),
    ],
    store: StorePath,
    feature_set: Annotated[
        str | None, typer.Option(help="Name in the store.  [default: as exported, or imported]")
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option("--as", help="embeddings, kl, dino, simclr, ...  [default: by the key]"),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Data set or column of the vectors, or a pattern of columns: 'f*'."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="A .csv, .parquet or .txt (ids) that names the rows.")
    ] = None,
    ids: Annotated[str | None, typer.Option(help="Column of ids.  [default: id, path]")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Column of labels.  [default: label_name, targets, label]")
    ] = None,
    splits: Annotated[str | None, typer.Option(help="Column of splits.  [default: split]")] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="npy, parquet or hdf5.  [default: by the suffix]"),
    ] = None,
    unit_rows: Annotated[
        int | None, typer.Option(help="Rows that are committed at once, a power of two.")
    ] = None,
    storage_dtype: Annotated[
        str | None, typer.Option(help="float16 or float32.  [default: nearest to the file's]")
    ] = None,
    unknown: Annotated[
        str, typer.Option(help="Rows with ids that the store does not know: refuse or skip.")
    ] = "refuse",
    restart: Annotated[bool, typer.Option("--restart", help="Delete this feature first.")] = False,
    as_json: Json = False,
) -> None:
    """Make a store of vectors that already exist, or add them to one; again to continue.

    Rows are matched with the store's samples by id, in any order. Files of the reference code
    (`embeddings`, `targets`) and of `fungi export` need no flags; a name that ends with train, val
    or test gives the split.

    \b
    Examples:
      fungi import pets.npy pets.fungi --table pets.csv
      fungi import train.h5 test.h5 pets.fungi
      fungi import kl-train.h5 kl-test.h5 pets.fungi --key attn_proj --as kl
      fungi import pets.parquet pets.fungi --key 'f*' --ids name --labels breed

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 done but unknown rows were skipped, 4 other files or
    settings than the feature was made from, 5 damaged store, 75 stopped by SIGTERM (run again).
    """
    with stop_on_signals() as stop:
        from fungistore.exchange.import_ import import_features as run
        from fungistore.exchange.import_options import ImportOptions

        options = ImportOptions(
            feature_set=feature_set,
            feature=feature,
            key=key,
            table=table,
            ids=ids,
            labels=labels,
            splits=splits,
            format=cast("Format | None", format_),
            unit_rows=unit_rows,
            storage_dtype=cast(Literal["float16", "float32"] | None, storage_dtype),
            unknown=cast(Literal["refuse", "skip"], unknown),
        )
        done = run(files, store, options, restart=restart, context=Context(ConsoleReporter(), stop))
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "status", str(store))
    if done.unknown:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: ImportResult) -> None:
    result(
        f"{done.store}: {done.matched} of {done.samples} samples have {done.feature} "
        f"[{done.dim}] of {done.storage_dtype} in {done.feature_set}; {done.units_done} units"
    )
