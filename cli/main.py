"""`fungi`: one command a stage."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Annotated, Any

import typer

from fungistore.errors import DEBUG, UsageError

from .commands.adapt import adapt
from .commands.annotate import annotate
from .commands.bank import bank
from .commands.copy import copy
from .commands.data import data
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.evaluate import Evaluations
from .commands.export import export
from .commands.extract import extract
from .commands.import_features import import_features
from .commands.index import index
from .commands.label import label
from .commands.models import models
from .commands.pca import pca
from .commands.plan import plan
from .commands.predict import predict
from .commands.retrieve import retrieve
from .commands.search import search
from .commands.segment import segment
from .commands.status import status
from .commands.table import loff
from .commands.train_loff import train_loff
from .commands.verify import verify
from .completion import join_values_of_bash
from .console import tell
from .layout import SETTINGS, Page, Pages
from .output import give_up, note, result, unwritten

HEADINGS = {
    "Make features": {
        "extract": extract,
        "label": label,
        "annotate": annotate,
        "import": import_features,
        "export": export,
        "copy": copy,
    },
    "Use them": {
        "pca": pca,
        "index": index,
        "search": search,
        "retrieve": retrieve,
        "adapt": adapt,
        "train-loff": train_loff,
        "predict": predict,
        "bank": bank,
        "segment": segment,
    },
    "Look": {
        "status": status,
        "verify": verify,
        "doctor": doctor,
        "plan": plan,
        "models": models,
        "data": data,
        "demo": demo,
    },
}
COMMANDS = {name: one for commands in HEADINGS.values() for name, one in commands.items()}
HELP = """Turn frozen encoders and a pile of images, texts or sounds into features worth keeping.

\b
Begin with:
  fungi extract images/ pets.fungi --model vit_small_patch14_dinov2.lvd142m
  fungi eval knn pets.fungi
"""
INSTEAD = {"help": "--help", "version": "--version"}  # what some type as a command
VERSIONS = ("torch", "torchvision", "timm", "numpy", "zarr", "faiss-gpu", "faiss-cpu")


class Commands(Pages):
    """Tells every error in the way of ours: those of the command line itself too."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        """Run a command line, and end the process with its exit code."""
        words = sys.argv[1:] if args is None else list(args)
        join_values_of_bash(os.environ)
        if words and words[0] in INSTEAD:
            words = [*words[1:], INSTEAD[words[0]]]
        stdout = sys.stdout
        try:
            settings |= {"standalone_mode": False, "obj": words}
            done = super().main(words, *more, **settings)
            code = done if isinstance(done, int) else 0
        except typer.TyperException as error:
            code = _told(error, as_json="--json" in words)
        except SystemExit:
            if sys.stdout is stdout:
                raise
            give_up(stdout)  # typer has replaced it: who read the help has gone
            code = 0
        except OSError as error:  # of the help, which is typer's to write: commands tell their own
            code = tell(unwritten(sys.stdout, error), as_json=False)
        except Exception as error:
            code = tell(error, as_json="--json" in words)
        sys.exit(code)


def _told(error: typer.TyperException, *, as_json: bool) -> int:
    what, place = error.format_message(), getattr(error, "ctx", None)
    if place is None:
        return tell(UsageError(what, hint="fungi --help"), as_json=as_json)
    if what == place.get_help():  # nothing was asked for
        for line in what.splitlines():
            note(line)
        return UsageError.exit_code
    usage, path = place.get_usage().removeprefix("Usage: "), place.command_path
    mistake = UsageError(what.rstrip("."), where=path, expected=usage, hint=f"{path} --help")
    return tell(mistake, as_json=as_json)


app = typer.Typer(
    name="fungi",
    cls=Commands,
    help=HELP,
    context_settings=SETTINGS,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _show_versions(is_asked: bool) -> None:
    if is_asked:
        result(f"fungi {metadata.version('fungistore')}")
        for name, version in _versions():
            result(f"{name} {version}")
        raise typer.Exit


def _versions() -> Iterator[tuple[str, str]]:
    """Yield what results can depend on, and its version, without importing any of it."""
    yield "Python", platform.python_version()
    for name in VERSIONS:
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_versions, is_eager=True, help="Show versions and exit."
        ),
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"


for heading, commands in HEADINGS.items():
    for name, function in commands.items():
        app.command(name, cls=Page, rich_help_panel=heading)(function)
evaluation = typer.Typer(
    cls=Evaluations,
    help="Evaluate features: one command a table.",
    no_args_is_help=True,
)
app.add_typer(evaluation, name="eval", rich_help_panel="Use them")
tables = typer.Typer(
    cls=Pages,
    help="Put what was trained into one table.",
    no_args_is_help=True,
)
tables.command("loff", cls=Page)(loff)
app.add_typer(tables, name="table", rich_help_panel="Use them")


def main() -> None:
    """Run the command line."""
    app()
