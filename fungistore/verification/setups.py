"""Setups: their configuration hashes to their name, and their files are those that were frozen."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fungistore.errors import StoreError
from fungistore.fingerprint import fingerprint
from fungistore.machine.context import Context
from fungistore.names import is_file_name
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.folder import Folder
from fungistore.store.setups import CHECKSUMS, CONFIG, LATENTS, SETUPS
from fungistore.store.store import Store
from fungistore.verification.arrays import StoredArrays
from fungistore.verification.findings import Finding, Remedy, readable

LOST = (
    "restore it from a copy of the store; without it the feature set can be read but not "
    "extended, and --restart or another --feature-set begins anew"
)


def check_setups(store: Store, arrays: StoredArrays, context: Context) -> Iterator[Finding]:
    """Check the setups that are there, and that those of all arrays are."""
    used = set(arrays.fingerprints.values())
    there = store.setups.names()
    for key in there:
        context.stop_if_asked()
        folder = store.setups.folder(key)
        may_go = key not in used and not arrays.lost
        yield from readable(store.backend, folder.key, _check(store, key, folder, may_go=may_go))
    for key in sorted(used - set(there)):
        names = ", ".join(name for name, used_by in arrays.fingerprints.items() if used_by == key)
        where, expected = f"{SETUPS}/{key}", f"the setup of {names}"
        yield Finding("setup-missing", where, expected, "no such setup", advice=LOST)


def _check(store: Store, key: str, folder: Folder, *, may_go: bool) -> Iterator[Finding]:
    if may_go and not folder.has(CONFIG):
        remedy = Remedy("removed", remove=(folder.key,))
        found = "one that was not frozen to its end"
        if any(name.startswith(LATENTS) for name in folder.list().files):
            found = "a bank that is being made: the same fungi extract goes on with it"
        expected = "a whole setup"
        yield Finding("orphan", folder.key, expected, found, "warning", remedy)
    elif problem := "; ".join(_problems(store, key, folder)):
        expected = "the setup as it was frozen"
        yield Finding("setup-damaged", folder.key, expected, problem, advice=LOST)


def _problems(store: Store, key: str, folder: Folder) -> Iterator[str]:
    if problem := _wrong_config(store, key):
        yield problem
    try:
        checksums = json.loads(folder.read(CHECKSUMS))
    except (OSError, ValueError, RecursionError) as error:
        raise_unreadable(error)
        yield f"{CHECKSUMS}: {error}"
        return
    is_plain = isinstance(checksums, dict) and all(isinstance(v, str) for v in checksums.values())
    if not is_plain or not all(map(is_file_name, checksums)):
        yield f"{CHECKSUMS} is no list of checksums"
        return
    for name, right in checksums.items():
        if problem := _wrong_file(folder, name, right):
            yield problem


def _wrong_config(store: Store, key: str) -> str | None:
    try:
        found = fingerprint(store.setups.config(key))
    except StoreError as error:
        return f"{CONFIG}: {error.found}"
    except ValueError as error:  # a number that is no number
        return f"{CONFIG}: {error}"
    return None if found == key else f"{CONFIG} has the fingerprint {found}"


def _wrong_file(folder: Folder, name: str, right: str) -> str | None:
    try:
        found = folder.digest(name)
    except (OSError, ValueError) as error:
        raise_unreadable(error)
        return f"{name}: {error}"
    return None if found == right else f"{name} has the checksum {found}, not {right}"
