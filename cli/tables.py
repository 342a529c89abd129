"""Tables on stdout: of any cells, and of an evaluation's scores."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

import fungistore as fungi

from .output import note, printable, write

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 110  # narrower terminals wrap lines rather than cut cells
PADDING = re.compile(r" +((?:\x1b\[0m)?)$", re.MULTILINE)  # which would wrap into empty lines
GAP, FOLDED_WIDTH = 2, 14  # between columns, and what a column of long text keeps at least
DEVIATION = "_deviation"  # what is in the cell of the metric before it
LEAST_P = 0.001  # smaller ones are not told apart
UNBOUNDED = 1_000_000  # in a file or a pipe a row is one line, whatever it holds


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Sequence[str],
    folded: Sequence[str] = (),
) -> None:
    """Print rows of text below the names of their columns.

    Args:
        columns: their names.
        rows: a cell for each column.
        left: columns that are no numbers.
        folded: columns of long text, which take several lines on a terminal where they have to.
    """
    from rich.cells import cell_len
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        side: Literal["left", "right"] = "left" if name in left else "right"
        overflow: Literal["fold", "ellipsis"] = "fold" if name in folded else "ellipsis"
        table.add_column(
            printable(name), justify=side, no_wrap=name not in folded, overflow=overflow
        )
    least = len(columns) * GAP
    cells = [[*map(printable, row)] for row in rows]
    for name, *column in zip(columns, *cells, strict=True):
        widest = max(map(cell_len, [name, *column]))
        least += min(widest, FOLDED_WIDTH) if name in folded else widest
    for row in cells:
        table.add_row(*row)
    _show(table, least if folded else max(least, WIDTH))


def show_text(text: str = "") -> None:
    """Print a line beside tables, as wide as it is."""
    _show(printable(text), is_folded=False)


def _show(what: Table | str, least: int = WIDTH, *, is_folded: bool = True) -> None:
    """Print on stdout, in no less than a width; no cell is taken for markup or an emoji's name."""
    from rich.console import Console

    text, is_terminal = StringIO(), sys.stdout is not None and sys.stdout.isatty()
    console = Console(
        file=text, force_terminal=is_terminal, highlight=False, markup=False, emoji=False
    )
    console.width = max(console.width, least) if is_terminal else UNBOUNDED
    console.print(what, soft_wrap=not is_folded)
    write(PADDING.sub(r"\1", text.getvalue()))


def show_scores(evaluation: fungi.Evaluation, saved: str | None, tell: Sequence[str]) -> None:
    """Print an evaluation: its own tables, its scores, what was left out, and where it is kept.

    Args:
        evaluation: what to print.
        saved: the file that has it.
        tell: fields of the scores' protocols that get a column where they occur.
    """
    for table in evaluation.details():
        show_table(table.columns, table.rows, left=table.columns[:1])
        show_text()
    names = list(dict.fromkeys(name for score in evaluation.scores for name in score.metrics))
    shown_elsewhere = {"balanced_accuracy"}  # = mean per class
    shown_elsewhere |= {f"{name}{DEVIATION}" for name in names}
    names = [name for name in names if name not in shown_elsewhere]
    told = [key for key in tell if any(key in score.protocol for score in evaluation.scores)]
    titles = [name.replace("_", " ").replace("accuracy", "acc") for name in names]
    are_compared = any(score.difference for score in evaluation.scores)
    compared = ("diff. (95 %)", "p") if are_compared else ()
    show_table(
        [*told, "features", "dim", "train", "test", *titles, *compared],
        [
            (
                *(str(score.protocol.get(key, "-")) for key in told),
                " + ".join(score.features),
                *map(str, (score.dim, score.n_train, score.n_test)),
                *(_cell(score, name) for name in names),
                *_difference(score)[: len(compared)],
            )
            for score in evaluation.scores
        ],
        left=[*told, "features"],
    )
    for reason, count in evaluation.excluded.items():
        if count:
            note(f"excluded: {count} {reason}")
    if saved:
        note(f"saved: {saved}")


def _cell(score: fungi.Score, name: str) -> str:
    value = score.metrics.get(name)
    if value is None:
        return "-"
    text = f"{100 * value:.2f}"
    if (deviation := score.metrics.get(f"{name}{DEVIATION}")) is not None:
        text += f" ± {100 * deviation:.2f}"
    elif name in score.spread:
        low, high = score.spread[name]
        text += f" ({100 * low:.1f}-{100 * high:.1f})"
    return text


def _difference(score: fungi.Score) -> tuple[str, str]:
    """Return the cells of a difference from the first combination: with its interval, and p."""
    found = score.difference
    if found is None:
        return "-", "-"
    low, high = (f"{100 * end:+.1f}" for end in found.interval)
    p = f"<{LEAST_P}" if found.p < LEAST_P else f"{found.p:.3f}"
    return f"{100 * found.value:+.2f} ({low} to {high})", p
