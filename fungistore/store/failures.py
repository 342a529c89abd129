"""`failures.jsonl`: inputs that could not be read, one JSON line each, appended as they happen.

Rows whose file has changed since they were made are listed too, until they are made anew.
Nothing here locks: `Store` lets one process at a time at the file.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from itertools import pairwise

from fungistore.store.backend import Backend

FAILURES = "failures.jsonl"
CHANGED_FILE = "ChangedFile"  # the `error` of a row that is of an older file than there is now
TRUNCATED = "TruncatedItem"  # the `error` of a row whose item was read as far as it goes


@dataclass(frozen=True)
class Failure:
    """An input that could not be read while a feature set was made, as one line of the file."""

    row: int
    uri: str
    error: str
    message: str
    feature_set: str = ""


def count_unread(failures: Iterable[Failure]) -> int:
    """Return how many of some inputs gave no item at all."""
    return sum(failure.error != TRUNCATED for failure in failures)


NAMES = {field.name for field in fields(Failure)}


def read_failures(backend: Backend) -> list[Failure]:
    """Return the failed inputs by row; the last line about a row of a feature set counts."""
    return [failure for failure, _ in _parsed(backend)]


def failure_lines(backend: Backend) -> list[bytes]:
    """Return the file's lines as they are; none where there is no file."""
    try:
        return backend.read(FAILURES).splitlines()
    except FileNotFoundError:
        return []


def each_failure(backend: Backend) -> Iterator[Failure]:
    """Yield what `read_failures` returns; of a sorted file, as runs leave it, a line at a time."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(backend.local_path(FAILURES).open("rb"))
        except FileNotFoundError:
            return
        keys = ((one.row, one.feature_set) for one in filter(None, map(_failure, file)))
        if any(before >= after for before, after in pairwise(keys)):
            yield from read_failures(backend)
            return
        file.seek(0)
        yield from filter(None, map(_failure, file))


def append_failures(backend: Backend, failures: Iterable[Failure]) -> None:
    """Append failed inputs and flush them to the disk, before their unit is committed."""
    lines = "".join(json.dumps(asdict(failure)) + "\n" for failure in failures)
    if lines:
        backend.append(FAILURES, lines.encode())


def compact_failures(
    backend: Backend, *, forget: str | None = None, mended: Collection[Failure] = ()
) -> None:
    """Rewrite the file sorted, without the repeats that interrupted units leave.

    Args:
        backend: where the store is.
        forget: a feature set whose failures are dropped.
        mended: failures that are dropped, whatever their error was.
    """
    if backend.has(FAILURES):
        dropped = {(failure.row, failure.feature_set) for failure in mended}
        kept = [
            line
            for failure, line in _parsed(backend)
            if failure.feature_set != forget and (failure.row, failure.feature_set) not in dropped
        ]
        backend.publish(FAILURES, b"".join(line + b"\n" for line in kept))


def _parsed(backend: Backend) -> list[tuple[Failure, bytes]]:
    """Return failures by row with their lines, whose fields may be more than this version knows."""
    found: dict[tuple[int, str], tuple[Failure, bytes]] = {}
    for line in failure_lines(backend):
        if failure := _failure(line):
            found[failure.row, failure.feature_set] = (failure, line)
    return [found[key] for key in sorted(found)]


def _failure(line: bytes) -> Failure | None:
    """Return what a line says; None for one that was cut short, whose unit was not committed, or
    is no such line.
    """
    try:
        document = json.loads(line)
        failure = Failure(**{name: document[name] for name in NAMES & document.keys()})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = (failure.uri, failure.error, failure.message, failure.feature_set)
    is_sound = type(failure.row) is int and all(type(text) is str for text in texts)
    return failure if is_sound else None
