"""`fungi export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context

from ..flags import Json, StorePath, command
from ..output import result, result_json


@command
def export(
    *,
    store: StorePath,
    file: Annotated[Path, typer.Argument(help="A .npy, .parquet, .h5 or .hdf5 file to write.")],
    options: fungi.ExportOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Write features, ids and labels into .npy, Parquet or HDF5.

    Splits come too. Blocks are divided by their norm and put side by side, as every other command
    reads them; patch tokens stay as they are. A .npy file gets a table of its rows beside it,
    NAME.samples.parquet.

    \b
    Examples:
      fungi export pets.fungi pets.npy --features embeddings,kl
      fungi export pets.fungi train.h5 --split train --separate
      fungi export pets.fungi pets.parquet --features embeddings --raw
      fungi export pets.fungi tokens.npy --features patches
    """
    done = fungi.export_features(store, file, options, overwrite=force, context=context)
    result_json(done.to_json()) if as_json else _show(done)


def _show(done: fungi.ExportResult) -> None:
    matrices = ", ".join(f"{name} {[done.rows, *shape]}" for name, shape in done.shapes.items())
    result(
        f"{', '.join(done.files)}: {matrices} of {done.dtype}; "
        f"{' + '.join(done.features)} of {done.feature_set}"
    )
