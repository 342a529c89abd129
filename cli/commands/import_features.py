"""`fungi import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted

from ..console import SKIPPED_INPUTS, next_step
from ..flags import Json, Restart, StorePath, command
from ..output import note, result, result_json
from ..shell import operand


@command
def import_features(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help=".npy, .parquet, .h5 or .zarr; rows follow each other."
        ),
    ],
    store: StorePath,
    options: fungi.ImportOptions,
    restart: Restart = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Make a store of features that exist, or add them to one.

    Killed and run again, it continues. Rows are matched with the store's samples by id, in any
    order. Files of the reference code (`embeddings`, `targets`) and of `fungi export` need no
    flags; a name that ends with train, val or test gives the split. Patch tokens are [rows, h, w,
    width] or [rows, tokens, width].

    \b
    Examples:
      fungi import pets.npy pets.fungi --table pets.csv
      fungi import train.h5 test.h5 pets.fungi
      fungi import kl-train.h5 kl-test.h5 pets.fungi --key attn_proj --as kl
      fungi import pets.parquet pets.fungi --key 'f*' --ids name --labels breed
      fungi import tokens.npy new.fungi --as patches --grid auto --prefix-tokens 1

    Exit codes: 0 done, 1 failed, or every row is unusable, 2 usage, 3 done but unknown rows were
    skipped, or rows are not finite or zero, 4 other files or settings than the feature was made
    from, 5 damaged store, 75 stopped by SIGTERM (run again).
    """
    done = fungi.import_features(files, store, options, restart=restart, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "status", operand(store))
    if done.unusable and done.unusable >= done.matched:
        note("failed: no row is usable; all have NaN, infinities or nothing but zeros")
        raise typer.Exit(1)
    if done.unknown or done.unusable:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: fungi.ImportResult) -> None:
    result(
        f"{done.store}: {done.matched} of "
        f"{counted(done.samples, 'sample has', 'samples have')} {done.feature} "
        f"[{', '.join(map(str, done.shape))}] of {done.storage_dtype} in {done.feature_set}; "
        f"{counted(done.units_done, 'unit')}"
    )
