"""`fungi segment`."""

from __future__ import annotations

from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context

from ..console import SKIPPED_INPUTS, lines
from ..flags import Json, StorePath, command
from ..output import note, result_json
from ..tables import show_table

CLASSES_SHOWN = 3


@command
def segment(
    *,
    store: StorePath,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE...", help="Files, sample ids, or - for a list on stdin."),
    ] = None,
    options: fungi.SegmentOptions,
    as_json: Json = False,
    context: Context,
) -> None:
    """Predict masks of images from a memory bank.

    Written are a mask (a PNG whose values are the classes) and a picture for each: the image, the
    mask over it, and the known mask where the image is a sample that has one. A new file goes
    through the store's own model and transform; samples need no model.

    \b
    Examples:
      fungi segment scenes.fungi new.jpg --out masks
      fungi segment scenes.fungi test/001.jpg test/002.jpg --html masks.html
      ls new/*.jpg | fungi segment scenes.fungi - --bank plain --json
    """
    done = fungi.segment(store, list(lines(images or [])), options, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    if options.html is not None:
        note(f"saved: {options.html}")
    for text, message in done.failed.items():
        note(f"no mask: {text}: {message}")
    if done.failed:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: fungi.SegmentResult) -> None:
    rows = []
    for one in done.images:
        largest = list(one.shares.items())[:CLASSES_SHOWN]
        what = ", ".join(f"{name} {100 * share:.1f} %" for name, share in largest)
        miou = "-" if one.miou is None else f"{100 * one.miou:.2f}"
        rows.append((one.input, what, miou, one.mask))
    words = ("input", "classes", "mask")
    show_table(("input", "classes", "miou", "mask"), rows, left=words, folded=words)
