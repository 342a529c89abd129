"""Leftovers of interrupted runs, files of other programs, the lines of failed inputs."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import TypeAdapter

from fungistore.machine.context import Context
from fungistore.names import is_foreign
from fungistore.quantities import counted
from fungistore.store.durable import PARTIAL
from fungistore.store.failures import FAILURES, Failure, failure_lines
from fungistore.store.local_claims import LOCKS
from fungistore.store.scratch import WORK, abandoned_work
from fungistore.store.store import Store
from fungistore.verification.findings import Finding, Remedy
from fungistore.verification.units import CheckedUnit

FAILURE = TypeAdapter(Failure)
FOREIGN_SHOWN = 5


def check_orphans(store: Store, context: Context) -> Iterator[Finding]:
    """Find the files that interrupted writes left behind."""
    for key in (*store.backend.leftovers(), *abandoned_work(store.backend)):
        context.stop_if_asked()
        remedy = Remedy("removed", remove=(key,))
        yield Finding("orphan", key, "no unfinished files", "one", "warning", remedy)


def foreign_files(store: Store, context: Context, others: Iterable[str]) -> list[str]:
    """Say which files of other programs lie in a store, in a sentence; harmless, so they stay.

    Args:
        store: it. Only where it is a directory do desktops and editors visit it.
        context: its stop is asked.
        others: keys of what was met among this program's own files.
    """
    root = store.backend.directory()
    found = list(others)
    for directory, folders, files in os.walk(root) if root is not None else ():
        context.stop_if_asked()
        for name in [*folders, *files]:
            if is_foreign(name) and name not in (LOCKS, WORK) and not name.endswith(PARTIAL):
                found.append(Path(directory, name).relative_to(root or "").as_posix())
        folders[:] = [name for name in folders if not is_foreign(name)]
    if not found:
        return []
    names = ", ".join(sorted(found)[:FOREIGN_SHOWN]) + (", ..." * (len(found) > FOREIGN_SHOWN))
    one, many = "file or folder of other programs is", "files or folders of other programs are"
    return [f"{counted(len(found), one, many)} passed over: {names}"]


def check_failures(store: Store, units: Iterable[CheckedUnit]) -> Iterator[Finding]:
    """Compare the list of failed inputs with the counts in the records of extracted arrays."""
    good: list[bytes] = []
    bad: list[int] = []
    listed: dict[str, set[int]] = {}
    for number, line in enumerate(failure_lines(store.backend), 1):
        try:
            failure = FAILURE.validate_json(line, strict=True)
            if not 0 <= failure.row < len(store.samples):
                raise ValueError("no such row")
        except ValueError:
            bad.append(number)
            continue
        good.append(line)
        listed.setdefault(failure.feature_set, set()).add(failure.row)
    if bad:
        numbers = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        yield Finding(
            "failures-damaged",
            FAILURES,
            "one JSON object a line, of a row of the sample table",
            f"other lines: {numbers}",
            "warning",
            Remedy(
                "rewritten without them", write=((FAILURES, b"".join(x + b"\n" for x in good)),)
            ),
        )
    rows = {name: sorted(numbers) for name, numbers in listed.items()}
    for unit in units:
        commit = unit.commit
        if commit is None or not commit.failed:
            continue
        mine = rows.get(unit.array.partition("/")[0], [])
        found = bisect_left(mine, unit.start + commit.rows) - bisect_left(mine, unit.start)
        if found < commit.failed:
            yield Finding(
                "failures-unlisted",
                FAILURES,
                f"{counted(commit.failed, 'failed input')} in unit {unit.unit} of {unit.array}",
                f"{found} lines",
                "warning",
                advice="the rows are NaN in any case; --restart lists them again",
            )
