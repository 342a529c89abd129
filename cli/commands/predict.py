"""`fungi predict`."""

from __future__ import annotations

from typing import Annotated

import typer

import fungistore as fungi
from fungistore.errors import UsageError
from fungistore.machine.context import Context

from ..console import SKIPPED_INPUTS, lines
from ..flags import Json, StorePath, command
from ..output import note, result_json
from ..tables import show_table

CLASSES_SHOWN = 3


@command
def predict(
    *,
    store: StorePath,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Files, or - for stdin.")
    ] = None,
    options: fungi.PredictOptions,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows", metavar="ROWS", help="Rows of the store instead: 0-9,12.  [default: IMAGE]"
        ),
    ] = None,
    as_json: Json = False,
    context: Context,
) -> None:
    """Classify images by a trained head.

    Printed are the label, and probabilities of all classes. A file goes through the store's own
    backbone and transform; rows of the store need no backbone. --ensemble averages what several
    heads say, --tta what one says of a feature map and its mirror images.

    \b
    Examples:
      fungi predict pets.fungi photo.jpg --head vit-xs-ta
      find new -name '*.jpg' | fungi predict pets.fungi - --json
      fungi predict pets.fungi --rows 0-9,12
      fungi predict pets.fungi photo.jpg --head 'vit-*' --ensemble --tta flips
    """
    if bool(images) == bool(rows):
        raise UsageError("what to classify?", expected="images, or --rows, and not both")
    if rows is not None:
        done = fungi.predict_rows(store, rows, options)
    else:
        done = fungi.predict_images(store, list(lines(images or [])), options, context=context)
    result_json(done.to_json()) if as_json else _show(done)
    for text, message in done.failed.items():
        note(f"not classified: {text}: {message}")
    if done.failed:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: fungi.PredictResult) -> None:
    rows = []
    for one in done.predictions:
        ranked = sorted(one.probabilities.items(), key=lambda item: -item[1])[:CLASSES_SHOWN]
        others = ", ".join(f"{name} {chance:.3f}" for name, chance in ranked[1:])
        rows.append((one.input, one.label, f"{ranked[0][1]:.3f}", others))
    words = ("input", "label", "then")
    if rows:
        show_table(("input", "label", "probability", "then"), rows, left=words, folded=words)
