"""Artefacts of which rows were made anew since: what `fungi status` says of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fungistore.errors import StoreError
from fungistore.store.contents import Commits, Contents, contents_in, state_of
from fungistore.store.folder import Folder
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
    """

    where: str
    arrays: tuple[str, ...]


def stale_artefacts(
    store: Store, arrays: Iterable[UnitArray], commits: Mapping[str, Commits]
) -> tuple[StaleArtefact, ...]:
    """Return the PCAs, indexes, heads and evaluations that have seen rows made anew since.

    What is damaged says nothing; `fungi verify` finds it.

    Args:
        store: the store.
        arrays: all of its arrays.
        commits: their records, by the array's name.
    """
    by_name = {array.name: array for array in arrays}
    found: dict[str, tuple[str, ...]] = {}
    for where, contents in _made(store, by_name.values()):
        anew = tuple(
            name
            for name, content in contents.items()
            if name in by_name and state_of(by_name[name], content, commits[name]) == "anew"
        )
        if anew:
            found[where] = anew
    return tuple(StaleArtefact(where, names) for where, names in found.items())


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
