"""`fungi`: one command a stage."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fungistore.errors import DEBUG

from .commands.doctor import doctor
from .commands.evaluate import Evaluations
from .commands.export import export
from .commands.extract import extract
from .commands.import_features import import_features
from .commands.index import index
from .commands.models import models
from .commands.pca import pca
from .commands.predict import predict
from .commands.search import search
from .commands.status import status
from .commands.train_loff import train_loff
from .commands.verify import verify

COMMANDS = {
    "extract": extract,
    "pca": pca,
    "index": index,
    "search": search,
    "train-loff": train_loff,
    "predict": predict,
    "export": export,
    "import": import_features,
    "status": status,
    "verify": verify,
    "doctor": doctor,
    "models": models,
}

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


for name, function in COMMANDS.items():
    app.command(name)(function)
evaluation = typer.Typer(
    cls=Evaluations, help="Evaluate features: one command a table.", no_args_is_help=True
)
app.add_typer(evaluation, name="eval")


def main() -> None:
    """Run the command line."""
    app()
