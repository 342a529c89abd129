"""`fungi label`: what a table says of a store's samples is taken over, without their source."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungistore.errors import UsageError
from fungistore.labelling.options import LabelOptions
from fungistore.labelling.table import CorrectionTable
from fungistore.machine.context import DEFAULT, Context
from fungistore.quantities import counted
from fungistore.sources.sample import columns_of, what_is_known
from fungistore.store.census import Census
from fungistore.store.columns import joined_columns
from fungistore.store.differences import CELLS, LABEL, SPLIT, Comparison
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.listing import refresh_samples
from fungistore.store.plain import Terms
from fungistore.store.spool import Spool
from fungistore.store.store import Store

UNKNOWN_SHOWN = 3
TAKEN = LABEL | SPLIT | CELLS


@dataclass(frozen=True)
class LabelResult:
    """What a table of corrections changed.

    Attributes:
        store: the store's directory.
        rows: rows of the table whose samples the store has.
        unknown: rows that were skipped, since the store does not know their ids.
        labels: samples whose label is another now.
        splits: samples whose split is another now.
        cells: samples with other cells in the table's further columns now.
        examples: some of the labels and splits, as "id: old -> new".
        new_classes: class names that the store did not have.
        dry_run: whether nothing was written.
    """

    store: str
    rows: int
    unknown: int
    labels: int
    splits: int
    cells: int
    examples: tuple[str, ...]
    new_classes: tuple[str, ...]
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def label(
    store: str | Path,
    table: str | Path,
    options: LabelOptions = LabelOptions(),
    *,
    dry_run: bool = False,
    context: Context = DEFAULT,
) -> LabelResult:
    """Give samples of a store other labels and splits, and further columns, by id.

    A column that the table lacks is left alone; an empty cell of one that it has empties it.
    Features stay as they are. The next `extract` of a source that knows labels takes its own.

    Args:
        store: the store's directory.
        table: a .csv or .parquet file with `id` or `path`, and `label`, `split` or other columns.
        options: what becomes of unknown ids.
        dry_run: only tell what would change.
        context: its reporter is told what happens; another writer is waited for.

    Raises:
        UsageError: the table cannot be used, has an id twice or, unless they are to be skipped,
            ids that the store does not know; nothing was written.
        StoreError: the store is damaged.
    """
    opened = Store.open(store)
    corrections = CorrectionTable(str(table))
    with disk_errors_explained(opened.where):
        writing = nullcontext(opened) if dry_run else opened.writing("samples", patience=context)
        with writing as target:
            return _labelled(target, corrections, options, context, dry_run=dry_run)


def _labelled(
    store: Store, table: CorrectionTable, options: LabelOptions, context: Context, *, dry_run: bool
) -> LabelResult:
    old, columns, knows = store.manifest.labels, columns_of(table), what_is_known(table)
    if not knows and not columns:
        raise UsageError(
            "the table corrects nothing",
            where=table.path,
            expected="`id` or `path`, and `label`, `split` or columns of your own",
        )
    names = dict.fromkeys([*old, *table.label_names()])
    joined = joined_columns([store.samples.columns(), columns])
    terms = Terms(
        {name: number for number, name in enumerate(names)},
        {name: joined[name] for name in columns},
        knows or frozenset(),
        places=False,
    )
    unknown: list[str] = []
    count = 0
    with Spool(terms.numbered) as differing:
        census = Census(store.samples.plain(terms), terms, differing)
        for batch in census.new_samples(table.batches()):
            count += len(batch)
            unknown += batch["id"].slice(0, UNKNOWN_SHOWN - len(unknown)).to_pylist()
        census.refuse_duplicates(None)
        if count and (options.unknown == "refuse" or not census.known):
            raise _unknown(store, table, census.known, count, unknown)
        comparison = Comparison(store.samples, differing, terms, table.root)
        found = comparison.differences()
        if not dry_run:
            store.commit(labels=tuple(names))
            refresh_samples(store, comparison, found, TAKEN)
    if count:
        said = f"{counted(count, 'row')} of ids that the store does not know: skipped"
        context.reporter.notice(said)
    for remark in table.remarks():
        context.reporter.notice(remark)
    return LabelResult(
        store=store.where,
        rows=census.known,
        unknown=count,
        labels=found.count(LABEL),
        splits=found.count(SPLIT),
        cells=found.count(CELLS),
        examples=(*found.relabelled, *found.resplit),
        new_classes=tuple(names)[len(old) :],
        dry_run=dry_run,
    )


def _unknown(
    store: Store, table: CorrectionTable, known: int, count: int, some: list[str]
) -> UsageError:
    own = next(store.samples.ids(), None)
    return UsageError(
        f"{counted(count, 'row is', 'rows are')} of ids that the store does not know",
        where=table.path,
        expected=f"ids as the store has them, such as {own!r}" if own else "a store with samples",
        found=", ".join(map(repr, some)),
        hint="--unknown skip leaves these rows out"
        if known
        else "fungi export STORE ids.csv lists the ids of a store",
    )
