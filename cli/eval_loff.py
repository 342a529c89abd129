"""`fungi eval loff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fungistore.machine.context import Context

from .console import ConsoleReporter, explains_errors, note, stop_on_signals
from .evaluation import FeatureSet, Json, StorePath, show


@explains_errors
def loff(
    store: StorePath,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="A name or pattern, each a line.  [default: the only head]"),
    ] = None,
    feature_set: FeatureSet = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the last line's confusion matrix: a .png or .svg file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test trained heads on the rows that their splits left out; patterns average over seeds.

    \b
    Examples:
      fungi eval loff pets.fungi --head vit-xs-ta
      fungi eval loff pets.fungi --head 'plain-*' --head 'ta-*' --plot confusion.png
    """
    from fungistore.loff.evaluate import evaluate_loff

    reporter = ConsoleReporter()
    if plot is not None:
        from fungistore.evaluation.plots import check_plot

        check_plot(plot)
    with stop_on_signals() as stop:
        done = evaluate_loff(
            store,
            head or (),
            feature_set=feature_set,
            device=device,
            context=Context(reporter, stop),
        )
    if plot is not None:
        from fungistore.evaluation.confusion import save_confusion

        save_confusion(done.classes, done.confusion, plot)
        note(f"saved: {plot}")
    show(done, done.save(Context(reporter)), as_json=as_json, tell=("heads",))
