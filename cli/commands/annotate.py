"""`fungi annotate`."""

from __future__ import annotations

from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context

from ..console import SKIPPED_INPUTS, next_step
from ..flags import Json, StorePath, command
from ..output import note, result, result_json
from ..shell import command_line, operand

CLASSES_SHOWN = 32


@command
def annotate(
    *,
    store: StorePath,
    masks: Annotated[
        str | None,
        typer.Argument(metavar="MASKS", help="A folder of masks that have the images' names."),
    ] = None,
    options: fungi.AnnotateOptions,
    restart: Annotated[
        bool, typer.Option("--restart", help="Read all masks anew; MASKS replaces earlier folders.")
    ] = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Copy masks of a store's images into it; again to add new ones.

    Segmentation masks are indexed or grey PNG (8 or 16 bits), BMP, TIFF or GIF, whose values are
    the classes, or pictures in the colours of a table. Without MASKS they are those that the
    manifest's column mask names, which `fungi extract` takes over by itself, and those of earlier
    folders. A mask that cannot be used, or is missing where others of its split are not, is skipped
    and listed.

    \b
    Examples:
      fungi annotate pets.fungi masks/
      fungi annotate pets.fungi masks/ --classes background,pet,border
      fungi annotate pets.fungi --void none --json
      fungi annotate street.fungi gtFine/ --colors colors.csv --void unlabelled

    Exit codes: 0 done, 1 failed, or no mask can be used, 2 usage, 3 done but some masks were
    skipped, 5 damaged store, 75 stopped by SIGTERM (run again), 130 ^C.
    """
    done = fungi.annotate(store, masks, options, restart=restart, context=context)
    if as_json:
        result_json(done.to_json())
    else:
        result(f"{done.store}: {done}")
        for name, share in list(done.share.items()) if len(done.share) <= CLASSES_SHOWN else ():
            result(f"  {share:7.2%}  {name}")
    if done.skipped:
        note("skipped:")
        for line in done.failures:
            note(f"  {line}")
        if done.skipped > len(done.failures):
            listing = command_line(["fungi", "status", store, "--failures"])
            note(f"  and {done.skipped - len(done.failures)} more: {listing}")
    next_step("fungi", "status", operand(store))
    if done.skipped:
        raise typer.Exit(SKIPPED_INPUTS)
