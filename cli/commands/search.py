"""`fungi search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context

from ..console import SKIPPED_INPUTS, lines
from ..flags import Json, StorePath, command
from ..output import note, result_json
from ..tables import show_table, show_text


@command
def search(
    *,
    store: StorePath,
    queries: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY...", help="Images, sample ids, or - for a list on stdin."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="WORDS", help="What to find; may be repeated.  [default: none]"
        ),
    ] = None,
    options: fungi.SearchOptions,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write a page with thumbnails.  [default: none]"
        ),
    ] = None,
    as_json: Json = False,
    context: Context,
) -> None:
    """Find the samples of a store nearest to files, ids or words.

    An image file goes through the same extraction as the store's images; a sample id is looked
    up, and is not among its own neighbours; --text needs embeddings of CLIP or of its kind. In a
    store of texts a query that is no sample id and no file is a text itself.

    \b
    Examples:
      fungi search pets.fungi photo.jpg --k 5
      fungi search pets.fungi cat/001.jpg dog/002.jpg --html near.html
      fungi search pets.fungi photo.jpg --index embeddings+kl-cosine
      fungi search photos.fungi --text 'a torn thread' --text 'a clean weave'
      ls new/*.jpg | fungi search pets.fungi - --json

    Exit codes: 0 done, 1 failed, 2 usage, 3 done but some queries were not answered, 4 the store
    or the weights are not those of the index, 5 damaged store, 75 stopped, 130 ^C.
    """
    asked = list(lines(queries or []))
    done = fungi.search(store, asked, options, texts=text or [], context=context)
    if html is not None:
        fungi.write_page(html, done)
        note(f"saved: {html}")
    result_json(done.to_json()) if as_json else _show(done)
    for failure in done.failed:
        note(f"not answered: {failure.query}: {failure.message}")
    if done.failed:
        raise typer.Exit(SKIPPED_INPUTS)


def _show(done: fungi.SearchResult) -> None:
    words = ("label", "text", "id")
    far = "1 - cosine" if done.metric == "cosine" else "distance"
    for number, answer in enumerate(done.answers):
        label = answer.sample.label if answer.sample else None
        if number:
            show_text()
        show_text(answer.query if label is None else f"{answer.query} ({label})")
        if answer.kind == "sample" and answer.sample and answer.sample.line:
            show_text(answer.sample.line)
        has_text = any(one.sample.line is not None for one in answer.neighbours)
        rows = [
            (
                *(str(one.rank), f"{one.distance:.4f}", one.sample.label or "-"),
                *([one.sample.line or "-"] if has_text else []),
                one.sample.id,
            )
            for one in answer.neighbours
        ]
        columns = ("rank", far, "label", *(["text"] if has_text else []), "id")
        show_table(columns, rows, left=words, folded=words)
