"""`failures.jsonl`: inputs that could not be read, one JSON line each, appended as they happen.

Rows whose file has changed since they were made are listed too, until they are made anew.
Nothing here locks: `Store` lets one process at a time at the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fungistore.store.durable import publish_bytes

CHANGED_FILE = "ChangedFile"  # the `error` of a row that is of an older file than there is now


@dataclass(frozen=True)
class Failure:
    """An input that could not be read while a feature set was made, as one line of the file."""

    row: int
    uri: str
    error: str
    message: str
    feature_set: str = ""


def read_failures(path: Path) -> list[Failure]:
    """Return the failed inputs by row; the last line about a row of a feature set counts."""
    return [failure for failure, _ in _lines(path)]


def append_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Append failed inputs and flush them to the disk, before their unit is committed."""
    lines = "".join(json.dumps(asdict(failure)) + "\n" for failure in failures)
    if lines:
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) and _last_byte(path) != b"\n":
                file.write(b"\n")  # a kill or a full disk cut the last line short
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())


def compact_failures(
    path: Path, *, forget: str | None = None, mended: Collection[Failure] = ()
) -> None:
    """Rewrite the file sorted, without the repeats that interrupted units leave.

    Args:
        path: the file.
        forget: a feature set whose failures are dropped.
        mended: failures that are dropped, whatever their error was.
    """
    if path.exists():
        dropped = {(failure.row, failure.feature_set) for failure in mended}
        kept = [
            line
            for failure, line in _lines(path)
            if failure.feature_set != forget and (failure.row, failure.feature_set) not in dropped
        ]
        publish_bytes(path, b"".join(line + b"\n" for line in kept))


def _lines(path: Path) -> list[tuple[Failure, bytes]]:
    """Return failures by row with their lines, whose fields may be more than this version knows."""
    found: dict[tuple[int, str], tuple[Failure, bytes]] = {}
    names = {field.name for field in fields(Failure)}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            document = json.loads(line)
            failure = Failure(**{name: document[name] for name in names & document.keys()})
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue  # a line cut short: its unit was not committed
        if type(failure.row) is not int or type(failure.feature_set) is not str:
            continue
        found[failure.row, failure.feature_set] = (failure, line)
    return [found[key] for key in sorted(found)]


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
