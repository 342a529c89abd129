"""What rows something was made from, so that rows that were made anew since are noticed.

A fingerprint says with which settings rows were made; `Content` says which rows of one array they
were. It is compared with the commit records alone, in the time that it takes to read these. Growth
changes nothing: a unit's record keeps the checksums of the rows that it had before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fungistore.errors import StoreError
from fungistore.fingerprint import digest_bytes
from fungistore.store.commit import Commit
from fungistore.store.samples import Rows
from fungistore.store.units import UnitArray

State = Literal["same", "gone", "anew"]
Counts = NDArray[np.int64]  # rows of each unit, from the first unit on
Amount = Annotated[int, Ge(0), Le(1 << 40)]  # bounded, since it is read from files
Runs = tuple[tuple[Amount, Amount], ...]  # the same in short: (how many units, rows of each)
Commits = Mapping[int, Commit]  # by unit
MOST_PARTS = 64  # a few hundred bytes for each array that an artefact was made from
PART_DIGITS = 8


@dataclass(frozen=True)
class Content:
    """The rows of one array that something was made from.

    Attributes:
        units: the rows that each unit had, 0 for those that were not used.
        digest: of the checksums of these rows.
        parts: the same of one stretch of the used units after the other, in short: a part that is
            there can be compared although another is not. () where an older version wrote it.
    """

    units: Runs
    digest: str
    parts: tuple[str, ...] = ()


Contents = Mapping[str, Content]  # by the array's name in the store
CONTENTS = TypeAdapter(Contents)


def content_of(
    array: UnitArray, rows: Rows | None = None, commits: Commits | None = None
) -> Content:
    """Return what the units of an array hold.

    Args:
        array: the array.
        rows: of the sample table; only the units that have some of them are used. Default: all.
        commits: the array's records; default: as they are now.
    """
    commits = array.commits() if commits is None else commits
    counts = committed_rows(array, commits)
    if rows is not None:
        used = np.zeros(len(counts), bool)
        used[rows // array.unit_rows] = True
        counts[~used] = 0
    lines = _lines(array, commits, counts)
    parts = (_digest(part)[:PART_DIGITS] for part in _parts(lines))
    return Content(runs_of(counts), _digest(lines), tuple(parts))


def state_of(array: UnitArray, content: Content, commits: Commits | None = None) -> State:
    """Tell whether the rows that something was made from are still those of an array.

    Args:
        array: the array.
        content: what was used.
        commits: the array's records; default: as they are now.

    Returns:
        "gone" where some are not there, so that it cannot be told: they may come back the same.
        "anew" all the same where others, which are there, are not the same.
    """
    commits = array.commits() if commits is None else commits
    lines = _lines(array, commits, counts_of(content.units, array.units))
    if None not in lines:
        return "same" if _digest(lines) == content.digest else "anew"
    there = zip(_parts(lines), content.parts, strict=False)
    is_other = any(None not in part and _digest(part)[:PART_DIGITS] != old for part, old in there)
    return "anew" if is_other else "gone"


def made_anew(arrays: Iterable[UnitArray], contents: Contents) -> list[str]:
    """Return the names of the arrays whose rows are not those that something was made from."""
    known = [array for array in arrays if array.name in contents]
    return [array.name for array in known if state_of(array, contents[array.name]) == "anew"]


def contents_in(document: Mapping[str, Any], where: str) -> Contents:
    """Return the contents that a stored document names; none where it is of an older version.

    Raises:
        StoreError: they are damaged.
    """
    try:
        return CONTENTS.validate_python(document.get("contents", {}))
    except ValueError as error:
        found = str(error).partition("\n")[0]
        what = "it cannot be told which rows something was made from"
        raise StoreError(what, where=where, found=found) from error


def digest_of(contents: Contents) -> str:
    """Return one digest of the rows of several arrays."""
    return digest_bytes("\n".join(f"{key} {one.digest}" for key, one in contents.items()).encode())


def committed_rows(array: UnitArray, commits: Commits) -> Counts:
    """Return how many rows of each unit of an array are committed."""
    counts = np.zeros(array.units, np.int64)
    for unit, commit in commits.items():
        counts[unit] = commit.rows
    return counts


def runs_of(counts: Counts) -> Runs:
    """Return the rows of each unit in short."""
    return tuple((len(list(run)), rows) for rows, run in groupby(counts.tolist()))


def counts_of(runs: Runs, most: int) -> Counts:
    """Undo `runs_of`, for at most so many units: a damaged file may say that there are more."""
    ends = np.clip(np.cumsum([0, *(units for units, _ in runs)]), 0, most)
    return np.repeat(np.array([rows for _, rows in runs], np.int64), np.diff(ends))


def _lines(array: UnitArray, commits: Commits, counts: Counts) -> list[str | None]:
    """Return a line on each used unit's rows, None where they are not there."""
    lines: list[str | None] = []
    for unit in np.flatnonzero(counts).tolist():
        commit, rows = commits.get(unit), int(counts[unit])
        found = commit and array.checksum_of(commit, rows)
        lines.append(f"{unit} {rows} {found}\n" if found else None)
    return lines


def _parts(lines: list[str | None]) -> list[list[str | None]]:
    step = max(1, -(-len(lines) // MOST_PARTS))
    return [lines[start : start + step] for start in range(0, len(lines), step)]


def _digest(lines: list[str | None]) -> str:
    return digest_bytes("".join(filter(None, lines)).encode())
