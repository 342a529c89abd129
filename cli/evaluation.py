"""What commands that read a store share: their options, words, and the table of scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fungistore.errors import UsageError

from .console import note, printable, result_json, table_console

if TYPE_CHECKING:
    from fungistore.evaluation.result import Evaluation, Score

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="The store's directory.")]
Features = Annotated[
    str | None,
    typer.Option("--features", help="Of embeddings,kl,dino,simclr.  [default: all that are there]"),
]
Pca = Annotated[str | None, typer.Option("--pca", help="A PCA made by `fungi pca`, instead.")]
FeatureSet = Annotated[
    str | None, typer.Option("--feature-set", help="Needed where the store has several.")
]
Holdout = Annotated[
    float | None,
    typer.Option("--holdout", help="Part of each class to test on, without a test split."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the holdout and all other choices.")]
Combinations = Annotated[
    str, typer.Option("--combinations", help="Of the features: one (all), nested, or all.")
]
PcaDims = Annotated[
    str | None,
    typer.Option("--pca-dim", help="Fit a PCA on the training rows: 512, or none,512 for both."),
]
Kappa = Annotated[bool, typer.Option("--kappa", help="Quadratic kappa, for ordered classes.")]
Seeds = Annotated[int, typer.Option("--seeds", help="Average over so many seeds.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def words(text: str | None) -> tuple[str, ...] | None:
    """Return the words of a comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else None


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, with the lines of standard input in the place of "-"."""
    import os
    import sys

    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        for line in sys.stdin.buffer:
            if text := os.fsdecode(line.rstrip(b"\r\n")):
                yield text


def one_of(flag: str, value: str, choices: Sequence[str]) -> str:
    """Return a value that is one of the choices.

    Raises:
        UsageError: it is not.
    """
    if value not in choices:
        raise UsageError("no such choice", where=flag, expected=" or ".join(choices), found=value)
    return value


def numbers(flag: str, text: str | None) -> tuple[float, ...]:
    """Return the numbers of a comma-separated list.

    Raises:
        UsageError: a word is no number.
    """
    try:
        return tuple(float(word) for word in words(text) or ())
    except ValueError as error:
        raise UsageError("not a number", where=flag, found=text) from error


def pca_dims(text: str | None) -> tuple[int | None, ...]:
    """Return widths of PCAs; "none" stands for going without one.

    Raises:
        UsageError: a word is neither.
    """
    try:
        dims = tuple(None if word == "none" else int(word) for word in words(text) or ())
    except ValueError as error:
        expected = "widths such as 512, or none,512"
        raise UsageError(
            "not a width of a PCA", where="--pca-dim", expected=expected, found=text
        ) from error
    return dims or (None,)


def show(
    evaluation: Evaluation, saved: str | None, *, as_json: bool, tell: Sequence[str] = ()
) -> None:
    """Print an evaluation as one JSON object, or as a table of its scores.

    Args:
        evaluation: what to print.
        saved: the file that has it.
        as_json: print the JSON object.
        tell: fields of the scores' protocols that get a column where they occur.
    """
    if as_json:
        result_json(evaluation.to_json() | {"saved": saved})
        return
    from rich.table import Table

    names = list(dict.fromkeys(name for score in evaluation.scores for name in score.metrics))
    names = [name for name in names if name != "balanced_accuracy"]  # = mean per class
    table = Table(box=None, pad_edge=False)
    told = [key for key in tell if any(key in score.protocol for score in evaluation.scores)]
    for name in (*told, "features", "dim", "train", "test", *names):
        title = name.replace("_", " ").replace("accuracy", "acc")
        left = name == "features" or name in told
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for score in evaluation.scores:
        table.add_row(
            *(printable(str(score.protocol.get(key, "-"))) for key in told),
            printable(" + ".join(score.features)),
            str(score.dim),
            str(score.n_train),
            str(score.n_test),
            *(_cell(score, name) for name in names),
        )
    table_console().print(table)
    for reason, count in evaluation.excluded.items():
        if count:
            note(f"excluded: {count} {reason}")
    if saved:
        note(f"saved: {saved}")


def _cell(score: Score, name: str) -> str:
    value = score.metrics.get(name)
    if value is None:
        return "-"
    if name not in score.spread:
        return f"{100 * value:.2f}"
    low, high = score.spread[name]
    return f"{100 * value:.2f} ({100 * low:.1f}-{100 * high:.1f})"
