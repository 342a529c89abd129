"""`fungi copy`."""

from __future__ import annotations

from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted, size

from ..console import next_step
from ..flags import Json, StorePath, command
from ..output import result, result_json
from ..shell import operand


@command
def copy(
    *,
    store: StorePath,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A directory or a URL for the copy.")
    ],
    options: fungi.CopyOptions,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what differs by what STORE has.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be copied; write nothing.")
    ] = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Copy a store, or some of its features, to another place.

    From a directory to a URL such as s3://bucket/pets.fungi, back, or across. The same command
    again continues, or adds what STORE has more by now. Every chunk is compared with its record
    before it is sent, and again when it has arrived. Until all is there, the copy is no store for
    any other command.

    \b
    Examples:
      fungi copy pets.fungi backup.fungi --dry-run
      fungi copy pets.fungi backup.fungi

    Exit codes: 0 done, 1 failed, 2 usage, 4 TARGET is another store, or has other rows, 5 STORE
    is damaged, 75 stopped by SIGTERM (run again).
    """
    done = fungi.copy_store(
        store, target, options, overwrite=overwrite, dry_run=dry_run, context=context
    )
    result_json(done.to_json()) if as_json else _show(done)
    if not dry_run:
        next_step("fungi", "verify", operand(target))


def _show(done: fungi.CopyResult) -> None:
    units, total = done.units["copied"], done.units["total"]
    said = "would copy" if done.is_dry_run else "copied"
    ways = ", ".join(f"{count} by {way}" for way, count in done.verified.items())
    result(
        f"{done.target}: {said} {units} of {counted(total, 'unit')} and "
        f"{counted(done.files, 'other file')}, {size(done.bytes)}"
        + (f"; compared: {ways}" if ways else "")
    )
