"""`fungi label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted

from ..console import SKIPPED_INPUTS, next_step
from ..flags import Json, StorePath, command
from ..output import result, result_json
from ..shell import operand


@command
def label(
    *,
    store: StorePath,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A .csv or .parquet with id or path.")
    ],
    options: fungi.LabelOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell; write nothing.")] = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Correct labels and splits of samples by id, without a source.

    TABLE has the columns id (or path), and label, split, or columns of your own. A column that it
    lacks is left alone; an empty cell of one that it has empties it. Features stay as they are.
    Where the source has labels, correct them there, too: each `fungi extract` takes those.

    \b
    Examples:
      fungi label pets.fungi corrected.csv --dry-run
      fungi label pets.fungi corrected.csv
      fungi label pets.fungi splits.csv --unknown skip --json

    Exit codes: 0 done, 1 failed, 2 usage, or ids that the store does not know, 3 done but such
    rows were skipped, 5 damaged store.
    """
    done = fungi.label(store, table, options, dry_run=dry_run, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    next_step("fungi", "status", operand(store))
    if done.unknown:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: fungi.LabelResult) -> None:
    counts = (
        (done.labels, "label", ""),
        (done.splits, "split", ""),
        (done.cells, "sample's cells", "samples' cells"),
    )
    said = ", ".join(counted(count, one, many) for count, one, many in counts if count)
    verb = "would change" if done.dry_run else "changed"
    result(f"{done.store}: {counted(done.rows, 'sample')} read, {verb}: {said or 'nothing'}")
    for example in done.examples:
        result(f"  {example}")
    if done.new_classes:
        result(f"  new classes: {', '.join(done.new_classes)}")
