"""How a source's samples come into a store's table, and what is noticed of known ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fungistore.errors import MismatchError, UsageError
from fungistore.modalities.modality import find_modality
from fungistore.sources.sample import Sample, Source, columns_of
from fungistore.store.census import SourceChanges
from fungistore.store.failures import CHANGED_FILE, Failure
from fungistore.store.samples import Part
from fungistore.store.store import Store

OTHERS_SHOWN = 3


def add_source(
    store: Store, source: Source, modality: str | None = None, *, update: bool = False
) -> SourceChanges:
    """Append the samples of a source that the store lacks; known samples keep their rows.

    Labels get integers in sorted order the first time; later labels follow them. The cells of its
    columns are the source's: where known samples have others now, these are taken over.

    Args:
        store: held for writing its samples.
        source: samples in their order.
        modality: name of what they are, of which a store has one; default: the store's.
        update: of known samples that have changed, take over the new size and time, and list
            their rows as to be made anew in every feature set that has them.

    Raises:
        UsageError: two samples have the same id, in the source or in an earlier one.
        MismatchError: the store has samples of another modality.
    """
    old = store.manifest
    items = find_modality(modality or old.modality).items
    if old.parts and modality not in (None, old.modality):
        raise MismatchError(
            "a store has samples of one kind",
            where=store.where,
            expected=store.modality.items,
            found=items,
            hint="use another STORE",
        )
    names = list(dict.fromkeys([*old.labels, *source.label_names()]))
    labels = {name: number for number, name in enumerate(names)}
    part, changes = store.samples.append(
        source, source.root, labels, columns_of(source), keep_changed=update
    )
    with store.samples.removed_on_error(part.file if part else None):
        _refuse_others(store, changes, source.root, items)
        parts = list(old.parts) + ([part] if part else [])
        if changes.known:
            parts = [store.samples.moved(part, source.root) for part in parts]
    store.commit(tuple(names), tuple(parts), modality)
    if changes.changed_samples:
        _note_changed(store, changes.changed_samples)
    _refresh_samples(store, changes, source)
    return changes


def _refuse_others(store: Store, changes: SourceChanges, root: str, items: str) -> None:
    """Refuse a source whose samples have the names of others; see `SampleTable.other_items`."""
    others: list[str] = []
    is_known = root in {part.root for part in store.manifest.parts}
    if is_known:
        others = store.samples.other_items(changes.changed_samples, root)
    if others or (changes.changed and not is_known):
        raise UsageError(
            f"{len(others) or changes.changed} {items} of this source have the names of "
            f"other {items}",
            where=root,
            expected=f"the source that the store was made from: {store.manifest.parts[0].root}",
            found=", ".join(map(repr, others[:OTHERS_SHOWN])) or None,
            hint="use another STORE, or a manifest whose `id` column tells them apart",
        )


def _note_changed(store: Store, changed: Mapping[int, Sample]) -> None:
    """List changed rows that may be made, before the table forgets that they have changed.

    Those are the rows of every chunk: one that has lost its record may be given another.
    """
    message = "the file has changed since its features were made"
    for feature_set in store.feature_sets():
        made: set[int] = set()
        for array in store.arrays(feature_set).values():
            units = {row // array.unit_rows for row in changed}
            there = {unit for unit in units if array.folder.has(array.chunk_key(unit))}
            made |= {row for row in changed if row // array.unit_rows in there}
        store.add_failures(
            Failure(row, changed[row].uri, CHANGED_FILE, message, feature_set)
            for row in sorted(made)
        )


def _refresh_samples(store: Store, changes: SourceChanges, source: Source) -> None:
    changed, first = changes.changed_samples.keys() | changes.changed_cells.keys(), 0
    for number, part in enumerate(store.manifest.parts):
        if any(first <= row < first + part.rows for row in changed):
            # without a checksum while the file may be the old one or the new one
            _replace_part(store, number, replace(part, checksum=None))
            _replace_part(store, number, store.samples.refresh(part, changes, source))
        elif part.checksum is None:  # a kill came between, and the new file is there
            _replace_part(store, number, store.samples.sealed(part))
        first += part.rows


def _replace_part(store: Store, number: int, part: Part) -> None:
    parts = list(store.manifest.parts)
    parts[number] = part
    store.commit(parts=tuple(parts))
