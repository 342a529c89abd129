"""What a verification says: one finding a problem, and what repairing it would do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fungistore.names import is_foreign
from fungistore.store.backend import Backend
from fungistore.store.disk_errors import is_unreadable

Severity = Literal["error", "warning"]
FindingKind = Literal[
    "manifest-damaged",
    "samples-damaged",
    "part-unreferenced",
    "group-damaged",
    "array-damaged",
    "array-missing",
    "chunk-missing",
    "chunk-damaged",
    "record-damaged",
    "record-stray",
    "counts-differ",
    "fingerprint-differs",
    "ids-differ",
    "setup-missing",
    "setup-damaged",
    "digests-damaged",
    "masks-damaged",
    "failures-damaged",
    "failures-unlisted",
    "orphan",
    "pca-stale",
    "bank-stale",
    "index-damaged",
    "index-stale",
    "head-damaged",
    "head-stale",
    "adaptation-damaged",
    "eval-damaged",
    "eval-stale",
    "answers-damaged",
    "records-missing",
    "metadata-stale",
    "unreadable",
    "other-schema",
]
Verdict = Literal["sound", "damaged", "unreadable", "other schema"]


def first_line(found: object) -> str:
    """Return the first line of what was found, such as an error; else the name of its type."""
    lines = str(found).splitlines()
    return lines[0] if lines else type(found).__name__


@dataclass(frozen=True)
class Remedy:
    """What repairing a finding does.

    Attributes:
        says: the same in words.
        remove: keys of what is deleted, in this order: records before what they vouch for.
        write: keys of files that are replaced, with their new bytes.
        then: the command that brings back what was removed, if something was.
    """

    says: str
    remove: tuple[str, ...] = ()
    write: tuple[tuple[str, bytes], ...] = ()
    then: str | None = None


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        kind: what sort of problem.
        where: the file's key in the store.
        expected: what would have been right.
        found: what is there.
        severity: "error" where data are wrong or unusable; "warning" for leftovers and stale
            results.
        remedy: what `--repair` does; None where it can do nothing.
        advice: what a user can do where there is no remedy.
    """

    kind: FindingKind
    where: str
    expected: str
    found: str
    severity: Severity = "error"
    remedy: Remedy | None = None
    advice: str | None = None

    @property
    def repair(self) -> str:
        """What `--repair` does about it, in words."""
        if self.remedy is not None:
            return self.remedy.says
        return f"cannot be repaired: {self.advice}" if self.advice else "nothing"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "kind": self.kind,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "severity": self.severity,
            "repair": self.repair,
            "repairable": self.remedy is not None,
            "then": self.remedy.then if self.remedy else None,
        }


def unreadable(backend: Backend, where: str, error: BaseException) -> Finding:
    """Return the finding for what cannot be read, which may be sound: nothing is done about it.

    Args:
        backend: of the store.
        where: key of what was looked at, unless the error names a file of the store.
        error: what reading raised.

    Raises:
        BaseException: the error, where it does say something; see `is_unreadable`.
    """
    if not is_unreadable(error):
        raise error
    root, file = backend.directory(), getattr(error, "filename", None)
    if root is not None and isinstance(file, str) and Path(file).is_relative_to(root):
        where = Path(file).relative_to(root).as_posix()
    found = (isinstance(error, OSError) and error.strerror) or str(error) or "out of memory"
    advice = "it may be sound: mend what keeps it from being read, then verify again"
    return Finding("unreadable", where, "what can be read", found, advice=advice)


def not_mounted(backend: Backend, key: str, *, or_empty: bool) -> Finding | None:
    """Return the finding for an object that may lie on a disk which is not there now, or None.

    Args:
        backend: of the store.
        key: of what is missing.
        or_empty: whether an empty folder on its way, as that of a disk to be mounted, says so too,
            and a link below the first folder, as nobody lists what is behind it; a link to nothing
            always does.

    Raises:
        OSError: a folder on its way cannot be read.
    """
    root = backend.directory()
    way = [*reversed(PurePosixPath(key).parents), PurePosixPath(key)][1:]
    for part in way if root is not None else ():
        path = (root or Path()) / part
        if path.is_symlink() and (not path.exists() or (or_empty and len(part.parts) > 1)):
            found = f"a link to {os.readlink(path)}"
        elif or_empty and path.is_dir() and all(map(is_foreign, os.listdir(path))):
            found = "an empty folder"
        else:
            continue
        advice = "mount the disk, or put the folder in the place of the link; then verify again"
        return Finding("unreadable", str(part), f"{key}, which has records", found, advice=advice)
    return None


def readable(backend: Backend, where: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings of a check; where something cannot be read, that ends it, and is one."""
    try:
        yield from findings
    except (OSError, MemoryError) as error:
        yield unreadable(backend, where, error)


@dataclass(frozen=True)
class ArrayCounts:
    """The sound units of one array.

    Attributes:
        name: of the array in the store.
        units: committed units that hold what their records say.
        rows: their rows.
        bytes: size of their chunks.
        failed: rows that stand for inputs that could not be read; normal, as are the next three.
        nan_rows, inf_rows, zero_rows: rows with a NaN, with an infinity, with all values zero.
    """

    name: str
    units: int
    rows: int
    bytes: int
    failed: int
    nan_rows: int
    inf_rows: int
    zero_rows: int


@dataclass(frozen=True)
class Verification:
    """What was found in a store.

    Attributes:
        store: its directory.
        findings: problems, errors first.
        units: units that were read and hashed, sound or not.
        bytes: size of their chunks.
        arrays: what each array has.
        uncommitted: chunks without a record, each a finding too, unless somebody was writing.
        notes: what could not be checked, and why; units that are not made yet, and by what.
        is_being_written: whether another process was writing meanwhile.
        seconds: that it took.
    """

    store: str
    findings: tuple[Finding, ...]
    units: int = 0
    bytes: int = 0
    arrays: tuple[ArrayCounts, ...] = ()
    uncommitted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_being_written: bool = False
    seconds: float = 0.0

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make a store one not to be used as it is."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def is_sound(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def verdict(self) -> Verdict:
        """The whole in a word: unreadable, and of another schema, is not damaged."""
        kinds = {finding.kind for finding in self.errors}
        if kinds <= {"unreadable"}:
            return "unreadable" if kinds else "sound"
        return "other schema" if kinds == {"other-schema"} else "damaged"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "store": self.store,
            "sound": self.is_sound,
            "verdict": self.verdict,
            "units": self.units,
            "bytes": self.bytes,
            "findings": [finding.to_json() for finding in self.findings],
            "arrays": [vars(array) for array in self.arrays],
            "uncommitted": list(self.uncommitted),
            "notes": list(self.notes),
            "being_written": self.is_being_written,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Repair:
    """What repairing a store did.

    Attributes:
        verification: the store as it is now.
        repaired: findings that were repaired.
        commands: what brings back the features that were dropped.
    """

    verification: Verification
    repaired: tuple[Finding, ...] = field(default=())
    commands: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary: the verification's, with what was repaired."""
        return self.verification.to_json() | {
            "repaired": [finding.to_json() for finding in self.repaired],
            "commands": list(self.commands),
        }


def errors_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by severity, kind and place."""
    key = {"error": 0, "warning": 1}
    once = dict.fromkeys(findings)  # two checks may meet what cannot be read
    return tuple(sorted(once, key=lambda f: (key[f.severity], f.kind, f.where)))
