"""`fungi retrieve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context
from fungistore.quantities import counted

from ..flags import Json, StorePath, command
from ..output import note, result, result_json, result_json_list, write


@command
def retrieve(
    *,
    store: StorePath,
    options: fungi.RetrieveOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the lines here.  [default: stdout]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    as_json: Json = False,
    context: Context,
) -> None:
    """Find labelled examples for a language model.

    For each row of a split the nearest rows of the split train, exactly, by the cosine of their
    features: a line of JSON with id, text (of other samples: uri), label and similarity of each, or
    with a prompt that is ready to be sent. --json prints one object of all, with --out a summary.

    \b
    Examples:
      fungi retrieve pets.fungi --k 5 --features embeddings,kl
      fungi retrieve pets.fungi --order nearest-last --out near.jsonl
      fungi retrieve news.fungi --format prompts --max-characters 500
      fungi retrieve news.fungi --format prompts --template prompt.txt
    """
    done = fungi.retrieve(store, options, context=context)
    for reason, count in done.excluded.items():
        if count:
            note(f"excluded: {count} {reason}")
    if out is not None:
        done.write(out, overwrite=force)
        if as_json:
            result_json(done.to_json() | {"file": str(out)})
        else:
            queries = counted(done.queries, "query", "queries")
            result(f"{out}: {queries}, {done.k} of {counted(done.train, 'training row')} each")
    elif as_json:
        result_json_list(done.to_json(), "lines", done.records())
    else:
        for record in done.records():
            write(json.dumps(record) + "\n")
