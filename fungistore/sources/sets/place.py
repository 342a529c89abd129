"""Where below a path a data set begins, and what of it is missing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.sources.sets.facts import DataSet, DataSetLayout

_SHOWN = 6


@dataclass(frozen=True)
class Place:
    """A data set on a disk: its layout, and the folder that this begins in."""

    layout: DataSetLayout
    root: Path


def find_place(data_set: DataSet, path: str) -> Place:
    """Return where a data set is, at a path or in a folder of its archive below it.

    Raises:
        UsageError: it is not there, or not all of it.
    """
    name = data_set.name
    if not path:
        raise UsageError("no path was given", where=f"{name}:", expected=f"{name}:PATH")
    given = Path(path).expanduser().absolute()
    if not given.is_dir():
        raise UsageError(
            "there is no such folder",
            where=given,
            expected=f"the folder of {data_set.title}, unpacked",
            hint=data_set.advice,
        )
    best = max(_candidates(data_set, given), key=lambda place: _share(place)[0])
    count, missing = _share(best)
    if not missing:
        return best
    if not count:
        raise _nothing_of_it(data_set, given)
    raise UsageError(
        f"{data_set.title} is not complete",
        where=best.root / missing[0],
        expected="; ".join(f"{need}, {best.layout.needs[need]}" for need in missing[:_SHOWN]),
        found=_found(best.root),
        hint=f"unpack what is missing; {data_set.advice}",
    )


def unnested(root: Path, folder: str) -> str:
    """Return a folder's name, or `name/name` where an archive was unpacked into its own name."""
    nested = f"{folder}/{Path(folder).name}"
    return nested if (root / nested).is_dir() else folder


def _candidates(data_set: DataSet, given: Path) -> Iterator[Place]:
    for layout in data_set.layouts:
        for inner in ("", *layout.inside):
            yield Place(layout, given / inner)


def _share(place: Place) -> tuple[float, list[str]]:
    """Return which part of a layout is there, and what is not."""
    needs = place.layout.needs
    missing = [need for need in needs if not _is_there(place.root, need)]
    return (len(needs) - len(missing)) / len(needs), missing


def _is_there(root: Path, need: str) -> bool:
    path = root / need
    if not need.endswith("/"):
        return path.is_file()
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is not None


def _nothing_of_it(data_set: DataSet, given: Path) -> UsageError:
    above = [
        Place(layout, given.parents[up])
        for layout in data_set.layouts
        for up in range(min(2, len(given.parents)))
    ]
    right = next((place.root for place in above if not _share(place)[1]), None)
    layouts = (f"{layout.what}: {', '.join(layout.needs)}" for layout in data_set.layouts)
    return UsageError(
        f"{data_set.title} is not here",
        where=given,
        expected="\n    or ".join(layouts),
        found=_found(given),
        hint=f"give the folder above: {shlex.quote(f'{data_set.name}:{right}')}"
        if right
        else data_set.advice,
    )


def _found(folder: Path) -> str:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in islice(entries, 1000))
    except OSError as error:
        return error.strerror or str(error)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "nothing"
