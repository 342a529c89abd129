"""How a source's samples come into a store's table, and what is noticed of known ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fungistore.errors import MismatchError, UsageError
from fungistore.modalities.modality import find_modality
from fungistore.sources.batches import batches_of
from fungistore.sources.sample import Source, columns_of, origin_of, what_is_known
from fungistore.store.census import Census
from fungistore.store.columns import joined_columns, with_columns
from fungistore.store.differences import (
    CELLS,
    CHANGED,
    LABEL,
    MOVED,
    PLACED,
    SPLIT,
    Comparison,
    Differences,
    SameContent,
)
from fungistore.store.failures import CHANGED_FILE, Failure
from fungistore.store.missing import find_missing, without
from fungistore.store.plain import Terms
from fungistore.store.removed import read_removed, write_removed
from fungistore.store.samples import SCHEMA, Part, Rows, SampleTable
from fungistore.store.spool import Spool
from fungistore.store.store import Store

OTHERS_SHOWN = 3
REMOVED_SHOWN = 3
BOTH = frozenset({"label", "split"})


@dataclass(frozen=True)
class SourceChanges:
    """A source against the table.

    Attributes:
        added: samples that are new.
        known: samples that the table has.
        changed: of those, samples of another size, time or inline content.
        removed: samples that the table has from this source, and whose file is gone from it.
        first_removed: the ids of some of them.
        labels: known samples whose label is another, which was taken over.
        splits: known samples whose split is another, which was taken over.
        cells: known samples with other cells in the source's columns, which were taken over.
        moved: known samples that are elsewhere, or of another time, and have the same bytes.
        unlisted: samples that the table has from other sources with this root, whose files are
            there, and that this one does not list.
        examples: some of the labels and splits, as "id: old -> new".
        changed_rows: rows of the changed samples.
    """

    added: int
    known: int
    changed: int
    removed: int = 0
    first_removed: tuple[str, ...] = ()
    labels: int = 0
    splits: int = 0
    cells: int = 0
    moved: int = 0
    unlisted: int = 0
    examples: tuple[str, ...] = field(default=(), compare=False)
    changed_rows: Rows = field(default_factory=lambda: np.zeros(0, np.int64), compare=False)


def add_source(
    store: Store,
    source: Source,
    modality: str | None = None,
    *,
    update: bool = False,
    same_content: SameContent | None = None,
) -> SourceChanges:
    """Append the samples of a source that the store lacks; known samples keep their rows.

    Classes get integers in sorted order the first time; later ones follow them. Labels, splits and
    cells are the source's: where known samples have others now, these are taken over.

    Args:
        store: held for writing its samples.
        source: samples in their order.
        modality: name of what they are, of which a store has one; default: the store's.
        update: of known samples that have changed, take over the new size and time, and list
            their rows as to be made anew in every feature set that has them.
        same_content: tells which rows that are elsewhere, or of another time, have the same bytes;
            these take the new place, and so do rows that nothing was made of.

    Raises:
        UsageError: two samples have the same id, in the source or in an earlier one.
        MismatchError: the store has samples of another modality.
    """
    old, table, root = store.manifest, store.samples, source.root
    refuse_other_modality(store, modality or old.modality)
    items = find_modality(modality or old.modality).items
    names = list(dict.fromkeys([*old.labels, *source.label_names()]))
    columns, knows = columns_of(source), what_is_known(source)
    joined = joined_columns([table.columns(), columns])
    terms = Terms(
        {name: number for number, name in enumerate(names)},
        {name: joined[name] for name in columns},
        BOTH if knows is None else knows,
    )
    with Spool(terms.numbered) as differing:
        census = Census(table.plain(terms), terms, differing)
        schema = with_columns(SCHEMA, columns)
        part = table.append(batches_of(source), root, origin_of(source), schema, census)
        with table.removed_on_error(part.file if part else None):
            if knows is None:
                terms = replace(terms, knows=frozenset(census.said))
            seen = census.seen_rows()
            parts = table.moved(root, seen) if len(seen) else list(old.parts)
            before = SampleTable(table.folder, parts)
            comparison = Comparison(before, differing, terms, root, same_content)
            found = comparison.differences()
            is_new = root not in {part.root for part in old.parts}
            disguised = comparison.disguised(without(seen, found.rows)) if is_new else ()
            _refuse_others(store, found, disguised, root, items)
            missing = find_missing(before, source, census, found)
            first = [row["id"] for row in table.take(missing.removed[:REMOVED_SHOWN])]
        store.commit(tuple(names), (*missing.parts, *([part] if part else [])), modality)
        listed = read_removed(store.folder())
        removed = missing.joined(listed)
        if not np.array_equal(removed, listed):
            write_removed(store.folder(), removed)
        if update:
            _note_changed(store, found, differing)
        taken = LABEL | SPLIT | CELLS | MOVED | PLACED | (CHANGED if update else 0)
        refresh_samples(store, comparison, found, taken)
    return SourceChanges(
        census.added,
        census.known,
        found.count(CHANGED),
        len(missing.removed),
        tuple(first),
        found.count(LABEL),
        found.count(SPLIT),
        found.count(CELLS),
        found.count(MOVED),
        missing.unlisted,
        (*found.relabelled, *found.resplit),
        found.rows_of(CHANGED),
    )


def _refuse_others(
    store: Store, found: Differences, disguised: tuple[str, ...], root: str, items: str
) -> None:
    """Refuse a source whose samples have the names of others; see `Differences.others`."""
    # of a source that has moved, some items are the same
    is_known = root in {part.root for part in store.manifest.parts} or found.count(MOVED) > 0
    others = disguised + (found.others if is_known else ())
    changed = found.count(CHANGED)
    if others or (changed and not is_known):
        raise UsageError(
            f"{len(others) or changed} {items} of this source have the names of other {items}",
            where=root,
            expected=f"the source that the store was made from: {store.manifest.parts[0].root}",
            found=", ".join(map(repr, others[:OTHERS_SHOWN])) or None,
            hint="use another STORE, or a manifest whose `id` column tells them apart; of datasets "
            "DatasetSource(ids=...)",
        )


def _note_changed(store: Store, found: Differences, differing: Spool) -> None:
    """List changed rows that may be made, before the table forgets that they have changed.

    Those are the rows of every chunk: one that has lost its record may be given another.
    """
    changed = found.rows_of(CHANGED)
    if not len(changed):
        return
    message = "the file has changed since its features were made"
    for feature_set in store.feature_sets():
        is_made = np.zeros(len(changed), bool)
        for array in store.arrays(feature_set).values():
            units = changed // array.unit_rows
            there = [u for u in np.unique(units).tolist() if array.folder.has(array.chunk_key(u))]
            is_made |= np.isin(units, there)
        made = changed[is_made].tolist()
        uris = differing.values("uri", changed[is_made])
        store.add_failures(
            Failure(row, uri, CHANGED_FILE, message, feature_set)
            for row, uri in zip(made, uris, strict=True)
        )


def refresh_samples(store: Store, comparison: Comparison, found: Differences, taken: int) -> None:
    """Take over what differs for one of some reasons, one part after the other."""
    rows, first = found.rows_of(taken), 0
    for number, part in enumerate(store.manifest.parts):
        start, stop = np.searchsorted(rows, (first, first + part.rows))
        if start < stop:
            # without a checksum while the file may be the old one or the new one
            part = _replace_part(store, number, replace(part, checksum=None))
            comparison.refresh(part, first, found, taken=taken)
            _replace_part(store, number, store.samples.sealed(part))
        elif part.checksum is None:  # a kill came between, and the new file is there
            _replace_part(store, number, store.samples.sealed(part))
        first += part.rows


def _replace_part(store: Store, number: int, part: Part) -> Part:
    parts = list(store.manifest.parts)
    parts[number] = part
    store.commit(parts=tuple(parts))
    return part


def refuse_other_modality(store: Store, modality: str) -> None:
    """Refuse samples of another modality than those that a store has.

    Raises:
        MismatchError: they are.
    """
    if store.manifest.parts and modality != store.manifest.modality:
        items = find_modality(modality).items
        raise MismatchError(
            "a store has samples of one kind",
            where=store.where,
            expected=store.modality.items,
            found=items,
            hint=f"another STORE for {items}; or a model of {store.modality.items}",
        )
