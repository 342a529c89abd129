"""Setups: their configuration hashes to their name, and their files are those that were frozen."""

from __future__ import annotations

import json
from pathlib import Path

from fungistore.errors import StoreError
from fungistore.fingerprint import fingerprint
from fungistore.machine.context import Context
from fungistore.names import is_file_name
from fungistore.store.durable import PARTIAL, file_digest
from fungistore.store.setups import CHECKSUMS, SETUPS
from fungistore.store.store import Store
from fungistore.verification.findings import Finding
from fungistore.verification.layout import StoredArray

CONFIG = "config.json"
LOST = (
    "restore it from a copy of the store; without it the feature set can be read but not "
    "extended, and --restart or another --feature-set begins anew"
)


def check_setups(
    store: Store, arrays: tuple[StoredArray, ...], context: Context
) -> tuple[list[Finding], list[str]]:
    """Check the setups that are there, and that those of all arrays are.

    Returns:
        Findings, and notes on what could not be checked.
    """
    findings: list[Finding] = []
    folder = store.root / SETUPS
    setups = sorted(folder.iterdir()) if folder.is_dir() else []
    setups = [path for path in setups if path.is_dir() and not path.name.endswith(PARTIAL)]
    unsealed = 0
    for path in setups:
        context.stop_if_asked()
        checksums, problem = _checksums(path)
        unsealed += checksums is None
        problems = [_wrong_config(store, path.name), problem]
        if checksums is not None:
            problems += [_wrong_file(path / name, right) for name, right in checksums.items()]
        else:
            problems += [
                _unreadable(store, path.name, file.stem) for file in path.glob("*.safetensors")
            ]
        if found := "; ".join(filter(None, problems)):
            where = f"{SETUPS}/{path.name}"
            expected = "the setup as it was frozen"
            findings.append(Finding("setup-damaged", where, expected, found, advice=LOST))
    there = {path.name for path in setups}
    for key in sorted({stored.array.fingerprint for stored in arrays} - there):
        names = ", ".join(s.array.name for s in arrays if s.array.fingerprint == key)
        where, expected = f"{SETUPS}/{key}", f"the setup of {names}"
        findings.append(Finding("setup-missing", where, expected, "no such setup", advice=LOST))
    notes = [f"{unsealed} setups of an earlier version have no checksums"] if unsealed else []
    return findings, notes


def _wrong_config(store: Store, key: str) -> str | None:
    try:
        found = fingerprint(store.setups.config(key))
    except StoreError as error:
        return f"{CONFIG}: {error.found}"
    except ValueError as error:  # a number that is no number
        return f"{CONFIG}: {error}"
    return None if found == key else f"{CONFIG} has the fingerprint {found}"


def _checksums(setup: Path) -> tuple[dict[str, str] | None, str | None]:
    """Return the recorded checksums, None where an earlier version wrote none, and a problem."""
    path = setup / CHECKSUMS
    if not path.exists():
        return None, None
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{CHECKSUMS}: {error}"
    is_plain = isinstance(document, dict) and all(isinstance(v, str) for v in document.values())
    is_plain = is_plain and all(map(is_file_name, document))
    return (document, None) if is_plain else ({}, f"{CHECKSUMS} is no list of checksums")


def _wrong_file(path: Path, right: str) -> str | None:
    try:
        found = file_digest(path)
    except (OSError, ValueError) as error:
        return f"{path.name}: {error}"
    return None if found == right else f"{path.name} has the checksum {found}, not {right}"


def _unreadable(store: Store, key: str, name: str) -> str | None:
    try:
        store.setups.tensors(key, name)
    except StoreError as error:
        return f"{name}.safetensors: {error.found}"
    return None
