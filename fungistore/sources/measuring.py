"""Sizes and times of a batch of files: ten million of them in a tight loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fungistore.location import Location, locate
from fungistore.remote.files import measure_all
from fungistore.remote.urls import is_url
from fungistore.sources.batches import CALENDAR, MICROSECONDS

ABSENT = -1  # the size of a file that is not there
SPELLED = r"^(bytes|data):|#|://"  # how a uri begins, or what it has, that is no plain path


def measure(root: str, uris: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the encoded size of items and their files' times in microseconds, as a batch has them.

    Args:
        root: what relative uris start from.
        uris: of the items; each is looked at once, however often it is there.
    """
    column = uris.dictionary_encode()
    names = column.dictionary
    sizes = np.full(len(names), ABSENT, np.int64)
    seconds = np.full(len(names), np.nan)
    is_spelled = pc.match_substring_regex(names, SPELLED).to_numpy(zero_copy_only=False)
    if is_url(root):
        is_spelled[:] = True
    plain = np.flatnonzero(~is_spelled)
    sizes[plain], seconds[plain] = _measure_paths(root, names.take(pa.array(plain)).to_pylist())
    others = np.flatnonzero(is_spelled).tolist()
    places = [locate(root, names[place].as_py()) for place in others]
    for place, (size, mtime) in zip(others, measure_places(places), strict=True):
        sizes[place] = ABSENT if size is None else size
        seconds[place] = np.nan if mtime is None else mtime
    codes = column.indices.to_numpy(zero_copy_only=False)
    return _known(sizes[codes], sizes[codes] != ABSENT), _microseconds(seconds[codes])


def measure_places(places: Sequence[Location]) -> Iterator[tuple[int | None, float | None]]:
    """Measure items; each object is asked for once, many at once."""
    urls = sorted({place.path for place in places if is_url(place.path)})
    found = dict(zip(urls, measure_all(urls), strict=True))
    for place in places:
        known = found.get(place.path)
        yield place.measure() if known is None else place.measured(*known)


def _measure_paths(
    root: str, paths: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    sizes = np.full(len(paths), ABSENT, np.int64)
    seconds = np.full(len(paths), np.nan)
    stat, start = os.stat, os.fsencode(root) + b"/"
    for place, text in enumerate(paths):
        path = text.encode("utf-8", "surrogateescape")  # whatever the locale's encoding is
        try:
            info = stat(path if path.startswith(b"/") else start + path)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            continue
        sizes[place] = info.st_size
        seconds[place] = info.st_mtime
    return sizes, seconds


def _microseconds(seconds: NDArray[np.float64]) -> pa.Array:
    is_known = (seconds > CALENDAR[0]) & (seconds < CALENDAR[1])  # neither does NaN lie there
    return _known(np.rint(np.where(is_known, seconds, 0) * MICROSECONDS), is_known)


def _known(
    values: NDArray[np.int64] | NDArray[np.float64], is_known: NDArray[np.bool_]
) -> pa.Array:
    return pa.array(values.astype(np.int64), mask=~is_known)
