"""`fungi search`."""

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
    from fungistore.searching.result import SearchResult


@explains_errors
def search(
    store: StorePath,
    queries: Annotated[
        list[str],
        typer.Argument(metavar="QUERY...", help="Images, sample ids, or - for a list on stdin."),
    ],
    index: Annotated[
        str | None, typer.Option("--index", help="Needed where the store has several.")
    ] = None,
    feature_set: FeatureSet = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Neighbours of each query.")] = 10,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with thumbnails to this file.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="The model's weights, if the file has moved.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Find the nearest images of a store to image files or to samples of it.

    An image file goes through the same extraction as the store's images; a sample id is looked
    up, and is not among its own neighbours.

    \b
    Examples:
      fungi search pets.fungi photo.jpg --k 5
      fungi search pets.fungi cat/001.jpg dog/002.jpg --index embeddings+kl-cosine --html near.html
      ls new/*.jpg | fungi search pets.fungi - --json

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 done but some queries were not answered, 4 the store
    or the weights are not those of the index, 5 damaged store, 75 stopped, 130 ^C.
    """
    with stop_on_signals() as stop:
        from fungistore.searching.search import search as run

        done = run(
            store,
            list(lines(queries)),
            index=index,
            feature_set=feature_set,
            k=k,
            weights=None if weights is None else str(weights.absolute()),
            device=device,
            context=Context(ConsoleReporter(), stop),
        )
    if html is not None:
        from fungistore.searching.page import write_page

        write_page(html, done)
        note(f"saved: {html}")
    result_json(done.to_json()) if as_json else _show(done)
    for failure in done.failed:
        note(f"not answered: {failure.query}: {failure.message}")
    if done.failed:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: SearchResult) -> None:
    from rich.table import Table

    console = table_console()
    for number, answer in enumerate(done.answers):
        label = answer.sample.label if answer.sample else None
        title = answer.query if label is None else f"{answer.query} ({label})"
        if number:
            console.print()
        console.print(printable(title), soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        table.add_column("rank", justify="right")
        table.add_column("1 - cosine" if done.metric == "cosine" else "distance", justify="right")
        table.add_column("label", no_wrap=True)
        table.add_column("id", overflow="fold")
        for one in answer.neighbours:
            table.add_row(
                str(one.rank),
                f"{one.distance:.4f}",
                printable(one.sample.label or "-"),
                printable(one.sample.id),
            )
        console.print(table)
