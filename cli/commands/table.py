"""`fungi table`: what many runs have come to, side by side."""

from __future__ import annotations

from typing import Annotated

import typer

import fungistore as fungi
from fungistore.machine.context import Context

from ..flags import Json, command
from ..output import result_json, write


@command
def loff(
    *,
    stores: Annotated[list[str], typer.Argument(metavar="STORE...", help="Stores with heads.")],
    options: fungi.LoffTableOptions,
    as_json: Json = False,
    context: Context,
) -> None:
    """Put trained heads into one table: a row a method, in Markdown.

    Heads that differ in their seeds alone are one row: means and deviations. Methods are called as
    in LOFF-TA's tables: Frozen + linear, LOFF, LOFF-TA, + Pool. Several stores are columns beside
    each other. Each head is tested as `fungi eval loff` does.

    \b
    Examples:
      fungi table loff pets.fungi
      fungi table loff pets.fungi --line 'LOFF=plain-*' --line 'LOFF-TA=ta-*' --json
      fungi table loff pets.fungi --ensemble --tta hflip --metrics accuracy,roc_auc
    """
    done = fungi.table_loff(stores, options, context=context)
    result_json(done.to_json()) if as_json else write(done.to_markdown())
