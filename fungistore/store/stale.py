"""Artefacts of which rows were made anew since: what `fungi status` says of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fungistore.errors import StoreError
from fungistore.store.contents import Contents, contents_in
from fungistore.store.folder import Folder
from fungistore.store.records import Records, named
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

# where artefacts are, and the file of each that says what it was made from
PLACES = (("indexes", "index.json"), ("heads", "config.json"))
EVALS = "evals"


@dataclass(frozen=True)
class StaleArtefact:
    """Something that was made from rows that are not the same any more.

    Attributes:
        where: its key in the store; of a PCA, that of its array.
        arrays: of which rows were made anew.
        gone: of which rows are not there now, so that it cannot be told.
    """

    where: str
    arrays: tuple[str, ...]
    gone: tuple[str, ...] = ()


def stale_artefacts(store: Store, records: Records) -> tuple[StaleArtefact, ...]:
    """Return the PCAs, indexes, heads and evaluations that have seen rows made anew since.

    What is damaged says nothing; `fungi verify` finds it.

    Args:
        store: the store.
        records: of all of its arrays.
    """
    anew: dict[str, set[str]] = defaultdict(set)
    gone: dict[str, set[str]] = defaultdict(set)
    for array in records.arrays:
        for names in records.out_of_date(array.name).values():
            anew[array.folder.key].update(names)
    for where, contents in _made(store, records.arrays):
        states = records.states(contents)
        anew[where].update(named(states, "anew"))
        gone[where].update(named(states, "gone"))
    return tuple(
        StaleArtefact(where, tuple(sorted(anew[where])), tuple(sorted(gone[where])))
        for where in dict.fromkeys([*anew, *gone])
        if anew[where] or gone[where]
    )


def _made(store: Store, arrays: Iterable[UnitArray]) -> Iterator[tuple[str, Contents]]:
    """Yield the key of each artefact with what it was made from."""
    for array in arrays:
        try:
            setup = store.setups.config(array.fingerprint)
        except StoreError:
            continue
        yield from _read(array.folder.key, setup.get("pca"))
    for kind, name in PLACES:
        for feature_set in store.folder(kind).below():
            for folder in feature_set.below():
                yield from _read(folder.key, _document(folder, name))
    evals = store.folder(EVALS)
    for name in evals.list().files:
        scores = (_document(evals, name) or {}).get("scores")
        for score in scores if isinstance(scores, list) else ():
            yield from _read(evals.key_of(name), score)


def _read(where: str, document: object) -> Iterator[tuple[str, Contents]]:
    if isinstance(document, dict):
        try:
            yield where, contents_in(document, where)
        except StoreError:
            return


def _document(folder: Folder, name: str) -> dict[str, Any] | None:
    try:
        document = json.loads(folder.read(name))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
