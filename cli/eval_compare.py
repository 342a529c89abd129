"""`fungi eval compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fungistore.machine.context import Context

from .console import (
    ConsoleReporter,
    explains_errors,
    note,
    printable,
    stop_on_signals,
    table_console,
)
from .evaluation import (
    Features,
    FeatureSet,
    Holdout,
    Json,
    Seed,
    StorePath,
    show,
    words,
)

if TYPE_CHECKING:
    from rich.table import Table

    from fungistore.evaluation.compare import ClassDifference, Comparison

CLASSES_SHOWN = 40


@explains_errors
def compare(
    store: StorePath,
    a: Annotated[
        str | None, typer.Option("--a", help="Combination A.  [default: the first feature]")
    ] = None,
    b: Annotated[
        str | None, typer.Option("--b", help="Combination B.  [default: all features]")
    ] = None,
    features: Features = None,
    feature_set: FeatureSet = None,
    k: Annotated[int, typer.Option("--k", help="Nearest neighbours that vote.")] = 20,
    holdout: Holdout = None,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw both tables: a .png or .svg file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare features: how alike they are (CKA), and which classes gain from B against A.

    The accuracy of a class is that of its test images' nearest neighbours among the train images.
    All numbers times 100, but for the CKA, which is 1 between features that are alike.

    \b
    Examples:
      fungi eval compare pets.fungi
      fungi eval compare pets.fungi --a embeddings --b embeddings,kl --plot gain.png
      fungi eval compare pets.fungi --holdout 0.3 --k 5 --json
    """
    from fungistore.evaluation.compare import CompareOptions, compare_features
    from fungistore.evaluation.plots import check_plot, save_plot

    if plot is not None:
        check_plot(plot)
    reporter = ConsoleReporter()
    options = CompareOptions(
        features=words(features),
        feature_set=feature_set,
        a=words(a),
        b=words(b),
        k=k,
        holdout=holdout,
        seed=seed,
    )
    with stop_on_signals() as stop:
        comparison = compare_features(store, options, context=Context(reporter, stop))
    saved = comparison.save(Context(reporter))
    if not as_json:
        _show_cka(comparison)
        _show_classes(comparison)
    show(comparison, saved, as_json=as_json, tell=("combination",))
    if plot is not None:
        save_plot(comparison, plot)
        note(f"plot: {plot}")


def _show_cka(comparison: Comparison) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("linear CKA", no_wrap=True)
    for name in comparison.cka.features:
        table.add_column(printable(name), justify="right", no_wrap=True)
    for name, values in zip(comparison.cka.features, comparison.cka.matrix, strict=True):
        table.add_row(printable(name), *(f"{value:.3f}" for value in values))
    _print(table)


def _show_classes(comparison: Comparison) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("class", no_wrap=True)
    for name in ("test", "A", "B", "B - A"):
        table.add_column(name, justify="right", no_wrap=True)
    classes = comparison.classes
    half = CLASSES_SHOWN // 2
    left_out = max(0, len(classes) - CLASSES_SHOWN)
    for one in classes[: half if left_out else None]:
        table.add_row(*_cells(one))
    if left_out:
        table.add_row(f"... {left_out} more (--json has them)")
        for one in classes[-half:]:
            table.add_row(*_cells(one))
    _print(table)


def _cells(one: ClassDifference) -> tuple[str, ...]:
    return (
        printable(one.name),
        str(one.n_test),
        f"{100 * one.accuracy_a:.2f}",
        f"{100 * one.accuracy_b:.2f}",
        f"{100 * one.difference:+.2f}",
    )


def _print(table: Table) -> None:
    console = table_console()
    console.print(table)
    console.print()
