"""What of a store is copied: arrays, and the objects beside them that belong to these."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fungistore.copying.options import CopyOptions
from fungistore.errors import UsageError
from fungistore.store.failures import FAILURES
from fungistore.store.feature import vectors_of
from fungistore.store.folder import Folder
from fungistore.store.item_digests import CONTENTS
from fungistore.store.masks import ANNOTATIONS
from fungistore.store.removed import REMOVED
from fungistore.store.setups import CONFIG, SETUPS
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

BESIDE = ("norms", "lengths", "patch-norms", "bank-labels")  # arrays that go with others
OF_ARRAYS = (("indexes", "index.json", "fingerprints"), ("heads", "config.json", "inputs"))
EVALS, BANKS = "evals", "banks"
ALWAYS = ("adaptations", "answers", "pca")  # made from images, or found by their setup

Arrays = dict[str, UnitArray]  # by the name in the store


def chosen_arrays(store: Store, options: CopyOptions) -> Arrays:
    """Return the arrays that are asked for, and those that go with them.

    Raises:
        UsageError: there is no such feature set, or no such feature in any.
    """
    sets = store.feature_sets()
    if options.feature_set is not None and options.feature_set not in sets:
        raise UsageError(
            f"there is no feature set {options.feature_set!r}",
            where=store.where,
            expected=", ".join(sets) or "none was made yet",
        )
    found: Arrays = {}
    known: dict[str, None] = {}
    for name in sets if options.feature_set is None else [options.feature_set]:
        arrays = store.arrays(name)
        blocks = {
            block: array.name.partition("/")[2] for block, array in vectors_of(arrays).items()
        }
        known |= dict.fromkeys([*blocks, *arrays])
        asked = arrays if options.features is None else options.features
        paths = {blocks.get(one, one) for one in asked}
        ends = {path.partition("/")[2] or path for path in paths}
        for path, array in arrays.items():
            kind, _, end = path.partition("/")
            if path in paths or (kind in BESIDE and end in ends):
                found[array.name] = array
    missing = [one for one in options.features or () if one not in known]
    if missing:
        raise UsageError(
            f"no such feature: {', '.join(missing)}",
            where=store.where,
            expected=", ".join(known) or "none was made yet",
        )
    return found


def files_before(store: Store, arrays: Arrays, *, is_whole: bool) -> Iterator[str]:
    """Yield the keys of what units rely on: setups, whose configuration comes last, and others."""
    used = {array.fingerprint for array in arrays.values()}
    for key in store.setups.names():
        if is_whole or key in used:
            keys = list(below(store.setups.folder(key)))
            yield from sorted(keys, key=lambda one: one == f"{SETUPS}/{key}/{CONFIG}")
    sets = {array.feature_set for array in arrays.values()}
    for folder in store.folder(CONTENTS).folders():
        if is_whole or folder.name in sets:
            yield from below(folder)
    yield from (name for name in (REMOVED, FAILURES) if store.folder().has(name))
    yield from _documents_last(store.folder(ANNOTATIONS))


def files_after(store: Store, arrays: Arrays, *, is_whole: bool) -> Iterator[str]:
    """Yield the keys of what was made of the arrays, where all that it was made from is copied."""

    def is_of(names: object) -> bool:
        return is_whole or (isinstance(names, dict) and names.keys() <= arrays.keys())

    for name in ALWAYS:
        yield from _documents_last(store.folder(name))
    for kind, document, field in OF_ARRAYS:
        for feature_set in store.folder(kind).folders():
            for folder in feature_set.folders():
                if is_of(_read(folder, document).get(field)):
                    yield from _documents_last(folder)
    for feature_set in store.folder(BANKS).folders():
        for folder in feature_set.folders():
            if is_whole or f"{feature_set.name}/bank/{folder.name}" in arrays:
                yield from _documents_last(folder)
    evals = store.folder(EVALS)
    for name in evals.list().files:
        scores = _read(evals, name).get("scores")
        if is_whole or (
            isinstance(scores, list)
            and all(isinstance(one, dict) and is_of(one.get("fingerprints")) for one in scores)
        ):
            yield evals.key_of(name)


def below(folder: Folder) -> Iterator[str]:
    """Yield the keys of all objects below a folder."""
    listing = folder.list()
    yield from (folder.key_of(name) for name in listing.files)
    for name in listing.folders:
        yield from below(folder.at(name))


def _documents_last(folder: Folder) -> Iterator[str]:
    """Yield the same, JSON files after what they vouch for."""
    yield from sorted(below(folder), key=lambda key: key.endswith(".json"))


def _read(folder: Folder, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(folder.read(name))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
