"""An index that is not what is asked for, or not of the rows that there are, is refused."""

from __future__ import annotations

from typing import Any

from fungistore.errors import MismatchError
from fungistore.fingerprint import describe
from fungistore.indexing.options import AUTO, IndexOptions
from fungistore.indexing.record import IndexRecord, restart_hint
from fungistore.indexing.rows import Available
from fungistore.store.records import named
from fungistore.store.store import Store


def refuse_other(
    store: Store, record: IndexRecord, options: IndexOptions, features: tuple[str, ...] | None
) -> None:
    """Raise MismatchError where the index is not what is asked for; None and "auto" ask nothing."""
    asked: dict[str, Any] = {
        "features": features,
        "metric": options.metric,
        "factory": None if options.factory == AUTO else options.factory,
        "seed": options.seed,
    }
    changed = {
        name: (getattr(record, name), value)
        for name, value in asked.items()
        if value is not None and value != getattr(record, name)
    }
    if changed:
        raise MismatchError(
            f"index {record.name!r} was made with other settings",
            where=store.where,
            expected="the same settings, or another index",
            found=describe(changed),
            hint=restart_hint(store, record),
        )


def refuse_changed(store: Store, record: IndexRecord, available: Available) -> None:
    """Raise MismatchError where rows that the index has were made anew since, or are not there."""
    states = available.matrix.records.states(record.contents)
    if anew := named(states, "anew"):
        raise MismatchError(
            f"rows that index {record.name!r} has were made anew since",
            where=store.where,
            expected="the rows that it was made from",
            found=f"others in {', '.join(anew)}",
            hint=restart_hint(store, record),
        )
    if gone := named(states, "gone"):
        raise MismatchError(
            f"rows that index {record.name!r} has are not there now",
            where=store.where,
            expected="the rows that it was made from",
            found=f"units without a record in {', '.join(gone)}",
            hint="fungi extract, import or pca makes them again; " + restart_hint(store, record),
        )
