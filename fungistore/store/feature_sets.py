"""Which feature set of a store is meant, and which of its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungistore.errors import UsageError

if TYPE_CHECKING:
    from fungistore.store.store import Store


def choose_feature_set(store: Store, name: str | None) -> str:
    """Return the feature set that was named, or the only one that there is.

    Raises:
        UsageError: there is none, no such one, or a choice between several.
    """
    names = store.feature_sets()
    if name in names:
        return name
    if name is None and len(names) == 1:
        return names[0]
    raise UsageError(
        f"there is no feature set {name!r}"
        if name
        else "there is more than one feature set"
        if names
        else "the store has no features yet",
        where=store.where,
        expected=", ".join(names) or None,
        hint="name one with --feature-set" if names else "make some with fungi extract",
    )
