"""`fungi table loff`: what the heads and adapted backbones of some stores have come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.machine.context import DEFAULT, Context
from fungistore.store.store import Store
from fungistore.tables.adapted import rows_of_adapted
from fungistore.tables.heads import rows_of_heads
from fungistore.tables.methods import place_of
from fungistore.tables.options import LoffTableOptions
from fungistore.tables.table import Found, LoffTable, TableRow

RowSource = Callable[[Store, LoffTableOptions, Context], Iterator[Found]]
SOURCES: tuple[RowSource, ...] = (rows_of_heads, rows_of_adapted)


def table_loff(
    stores: str | Path | Sequence[str | Path],
    options: LoffTableOptions = LoffTableOptions(),
    *,
    context: Context = DEFAULT,
) -> LoffTable:
    """Test heads and adapted backbones of stores, and put them into one table.

    They are tested as `fungi eval loff` and `fungi eval adapted` do. A row has the runs that differ
    in their seeds alone, those of the adaptation behind a head's features included, or those that a
    line's pattern names. Rows of several stores are one where backbone, method, image size and
    names agree. They stand as in the paper's tables, or in the order of the lines. With `ensemble`,
    rows of several heads are followed by one of the mean of their probabilities; with `tta`, rows
    of heads on feature maps by one of the mean over flips.

    Args:
        stores: their directories.
        options: which heads and backbones, and what is told.
        context: its reporter is told what happens, its stop asked between heads.

    Raises:
        UsageError: there is nothing to tell of, or no such metric.
        MismatchError: features or rows are not those of a head's training any more.
    """
    opened = [
        Store.open(store, keep_removed=options.keep_removed)
        for store in ([stores] if isinstance(stores, str | Path) else stores)
    ]
    rows: dict[tuple[str, str, int | None, str], TableRow] = {}
    known: dict[str, None] = {}
    for store in opened:
        for source in SOURCES:
            for found in source(store, options, context):
                known |= dict.fromkeys(found.cell.metrics)
                _place(found, store.where, rows)
    if not rows:
        raise UsageError(
            "there is no head to tell of",
            where=", ".join(store.where for store in opened),
            expected="heads" + (f" that match {', '.join(options.lines)}" if options.lines else ""),
            hint="fungi train-loff trains one; --line 'TITLE=SET/NAME' names some",
        )
    if unknown := [name for name in options.metrics if name not in known]:
        raise UsageError(
            f"no row has this metric: {', '.join(unknown)}",
            where="--metrics",
            expected=f"some of {', '.join(name for name in known if 'deviation' not in name)}",
            hint="--kappa, or --order, adds the quadratic kappa of ordered classes",
        )
    where = tuple(store.where for store in opened)
    return LoffTable(where, options.metrics, _in_order([*rows.values()], options))


def _place(
    found: Found, store: str, rows: dict[tuple[str, str, int | None, str], TableRow]
) -> None:
    """Add what a store has to the row of this kind, or to a new one with a name of its own."""
    every = ", ".join(found.cell.heads)
    for name in (found.name, f"{found.feature_set}/{found.name}", f"{found.feature_set}/{every}"):
        key = (found.features, found.method, found.image_size, name)
        row = rows.setdefault(key, TableRow(*key, cells={}, speed=found.speed))
        if store not in row.cells:
            row.cells[store] = found.cell
            return


def _in_order(rows: list[TableRow], options: LoffTableOptions) -> tuple[TableRow, ...]:
    """Return rows in the order of the lines, or else of each backbone as the paper has them."""
    if options.lines:
        titles = [line.partition("=")[0] for line in options.lines]
        return tuple(sorted(rows, key=lambda row: _line_of(row.method, titles)))
    backbones = [*dict.fromkeys(row.features for row in rows)]
    return tuple(
        sorted(rows, key=lambda row: (backbones.index(row.features), place_of(row.method)))
    )


def _line_of(method: str, titles: list[str]) -> int:
    """Return which line a row is of, by its title and what may follow it."""
    return next(
        n for n, title in enumerate(titles) if method == title or method.startswith(f"{title}, ")
    )
