"""A source's samples join a store's table, and what has changed is said."""

from __future__ import annotations

from fungistore.errors import FungiError
from fungistore.extraction.measure import refuse_empty
from fungistore.extraction.recognition import Recognition
from fungistore.machine.context import Context
from fungistore.modalities.modality import Modality
from fungistore.quantities import counted
from fungistore.sources.sample import Source, source_remarks
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from fungistore.store.understood import Understood, understood


def add_samples(
    store: Store, source: Source, modality: Modality, context: Context, *, update: bool
) -> Understood:
    """Add the source's samples; where nothing usable comes of it, no new store is left behind.

    Returns what was understood of them, which is told too.
    """
    is_new = not len(store.samples)
    try:
        recognition = Recognition(store, source.root, context)
        changes = add_source(store, source, modality.name, update=update, same_content=recognition)
        refuse_empty(store, source, modality)
    except FungiError:
        if is_new:
            store.remove()
        raise
    if changes.known and changes.added:
        context.reporter.notice(
            f"{changes.added} new {modality.items} after {changes.known} known ones"
        )
    if changes.changed:
        consequence = (
            "their rows are made anew"
            if update
            else "their rows are kept as they are; --update makes them anew"
        )
        context.reporter.notice(
            f"{changes.changed} {modality.items} have another size, time or content than "
            f"when they were added; {consequence}"
        )
    if changes.moved:
        were = counted(changes.moved, f"{modality.item} was", f"{modality.items} were")
        context.reporter.notice(f"{were} moved or touched: the same bytes, nothing is made anew")
    if changes.labels or changes.splits:
        counts = (counted(changes.labels, "label"), counted(changes.splits, "split"))
        what = " and ".join(word for word in counts if not word.startswith("0 "))
        context.reporter.notice(
            f"{what} differed from what the store had, and were taken over from the source: "
            f"{', '.join(changes.examples)}"
        )
    if changes.cells:
        context.reporter.notice(
            f"{changes.cells} {modality.items} have other values in the columns of the source "
            "than the store had; they were taken over"
        )
    found = understood(store, source)
    for said in (str(found), *found.warnings(), *source_remarks(source)):
        context.reporter.notice(said)
    if changes.removed:
        names = ", ".join(changes.first_removed)
        names += ", ..." if changes.removed > len(changes.first_removed) else ""
        context.reporter.notice(
            f"{changes.removed} {modality.items} are not in the source any more ({names}): their "
            "rows are kept, and left out of evaluations, indexes and training (--keep-removed "
            "uses them)"
        )
    if changes.unlisted:
        context.reporter.notice(
            f"{changes.unlisted} {modality.items} of the store are not listed here, but by another "
            "source in this folder; their rows are used as before"
        )
    return found
