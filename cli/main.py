"""`fungi`: one command a stage."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from . import extract, models, status
from .console import DEBUG

app = typer.Typer(
    name="fungi",
    help="Turn a frozen vision backbone and a pile of images into features worth keeping.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


app.command("extract")(extract.extract)
app.command("status")(status.status)
app.command("models")(models.models)


def main() -> None:
    """Run the command line."""
    app()
