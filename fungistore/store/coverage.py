"""Which rows of some arrays of a feature set can be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fungistore.store.disk_errors import damage_explained
from fungistore.store.records import Records
from fungistore.store.samples import Rows
from fungistore.store.units import UnitArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Coverage:
    """Which rows of some arrays can be used, and why others cannot.

    Attributes:
        usable: mask over the sample table; True where every array has finite values, and the file
            is not gone.
        missing: rows that some array does not have yet.
        unreadable: rows with a NaN or an infinity in some array, unreadable inputs among them.
        removed: mask of the rows that are left out since their file is gone from the source.
    """

    usable: Mask
    missing: int
    unreadable: int
    removed: Mask


def coverage_of(
    arrays: Iterable[UnitArray], records: Records, samples: int, left_out: Rows
) -> Coverage:
    """Tell which of a store's rows can be used; reads only units that count unusable ones.

    Args:
        arrays: that are used together.
        records: of the arrays.
        samples: rows of the sample table.
        left_out: rows whose file is gone from the source.
    """
    present, usable = np.ones(samples, bool), np.ones(samples, bool)
    for array in arrays:
        mine, finite = np.zeros(samples, bool), np.zeros(samples, bool)
        for unit, commit in records.of(array.name).items():
            start = unit * array.unit_rows
            stop = start + commit.rows
            mine[start:stop] = finite[start:stop] = True
            if commit.nan_rows or commit.inf_rows:
                where = f"{array.name}, rows {start} to {stop}"
                with damage_explained("a chunk is damaged", where):
                    for first, rows in array.pieces(unit, commit.rows):
                        is_finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
                        finite[first : first + len(rows)] = is_finite
        present &= mine
        usable &= finite
    removed = np.zeros(samples, bool)
    removed[left_out[left_out < samples]] = True
    missing, unreadable = int((~present).sum()), int((present & ~usable).sum())
    return Coverage(usable & ~removed, missing, unreadable, removed)


def read_rows(array: UnitArray, start: int, stop: int) -> NDArray[np.floating]:
    """Return rows [start, stop) of an array.

    Raises:
        StoreError: a chunk is damaged.
    """
    with damage_explained("a chunk is damaged", f"{array.name}, rows {start} to {stop}"):
        return array.read(start, stop)
