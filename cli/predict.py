"""`fungi predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fungistore.machine.context import Context

from .console import (
    SKIPPED_INPUTS,
    ConsoleReporter,
    explains_errors,
    note,
    printable,
    result_json,
    stop_on_signals,
    table_console,
)
from .evaluation import FeatureSet, Json, StorePath, lines

if TYPE_CHECKING:
    from fungistore.loff.predict import PredictResult

CLASSES_SHOWN = 3


@explains_errors
def predict(
    store: StorePath,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Files, or - for stdin.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="Needed where the store has several.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", help="Rows of the store instead: 0-9,12.")
    ] = None,
    feature_set: FeatureSet = None,
    weights: Annotated[
        Path | None, typer.Option(help="The backbone's weights, if the file has moved.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Classify images by a trained head: label, and probabilities of all classes.

    A file goes through the store's own backbone and transform; rows of the store need no backbone.

    \b
    Examples:
      fungi predict pets.fungi photo.jpg --head vit-xs-ta
      find new -name '*.jpg' | fungi predict pets.fungi - --json
      fungi predict pets.fungi --rows 0-9,12
    """
    from fungistore.errors import UsageError
    from fungistore.loff.predict import predict_images, predict_rows

    if bool(images) == bool(rows):
        raise UsageError("what to classify?", expected="images, or --rows, and not both")
    reporter = ConsoleReporter()
    if rows is not None:
        wanted = _numbers(rows)
        done = predict_rows(store, wanted, head=head, feature_set=feature_set, device=device)
    else:
        with stop_on_signals() as stop:
            done = predict_images(
                store,
                list(lines(images or [])),
                head=head,
                feature_set=feature_set,
                weights=None if weights is None else str(weights.absolute()),
                device=device,
                context=Context(reporter, stop),
            )
    result_json(done.to_json()) if as_json else _show(done)
    for text, message in done.failed.items():
        note(f"not classified: {text}: {message}")
    if done.failed:
        raise typer.Exit(SKIPPED_INPUTS)


def _numbers(text: str) -> list[int]:
    """Return the numbers of a list such as 0-9,12."""
    from fungistore.errors import UsageError

    found: list[int] = []
    try:
        for word in text.split(","):
            first, _, last = word.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        expected = "row numbers such as 0-9,12"
        raise UsageError("no such rows", where="--rows", expected=expected, found=text) from error
    return found


def _show(done: PredictResult) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("input", "label", "probability", "then"):
        table.add_column(name, justify="right" if name == "probability" else "left")
    for one in done.predictions:
        ranked = sorted(one.probabilities.items(), key=lambda item: -item[1])[:CLASSES_SHOWN]
        others = ", ".join(f"{name} {chance:.3f}" for name, chance in ranked[1:])
        table.add_row(
            printable(one.input), printable(one.label), f"{ranked[0][1]:.3f}", printable(others)
        )
    table_console().print(table)
