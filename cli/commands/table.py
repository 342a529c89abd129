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
    stores: Annotated[
        list[str],
        typer.Argument(metavar="STORE...", help="Stores with what was trained."),
    ],
    options: fungi.LoffTableOptions,
    as_json: Json = False,
    context: Context,
) -> None:
    """Put heads and adapted backbones into a table: a row a method.

    It is Markdown. What differs in seeds alone is one row: means and deviations, over feature sets
    of several adaptations, too. Methods are called and ordered as in LOFF-TA's tables: Frozen +
    linear, LOFF, LOFF-TA, + Pool, VPT, VPT + LOFF-TA. Several stores are columns beside each other.
    Rows are tested as `fungi eval loff` and `fungi eval adapted` do.

    \b
    Examples:
      fungi table loff pets.fungi
      fungi table loff pets.fungi --line 'LOFF=plain-*' --line 'LOFF-TA=ta-*' --json
      fungi table loff pets.fungi --ensemble --tta hflip --metrics accuracy,roc_auc
    """
    done = fungi.table_loff(stores, options, context=context)
    result_json(done.to_json()) if as_json else write(done.to_markdown())
