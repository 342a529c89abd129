"""The coordinates of a PCA: unit by unit, of the rows that it does not have, or has of others."""

from __future__ import annotations

from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.engines.engine import DividedWork, Place, RunSlice
from fungistore.engines.pieces import place_of
from fungistore.errors import MismatchError
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix, open_features
from fungistore.matrices.products import TILE_ROWS
from fungistore.pca.components import Pca
from fungistore.pca.frozen import load
from fungistore.pca.random_map import RandomMap
from fungistore.quantities import counted
from fungistore.store.batches import UnitBatch
from fungistore.store.commit import Commit
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.records import Records
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


def transform(
    matrix: FeatureMatrix,
    pca: Pca | RandomMap,
    array: UnitArray,
    context: Context,
    part: Slice = WHOLE,
) -> int:
    """Write the coordinates of every unit that lacks rows, or was made from other rows.

    Args:
        matrix: the features.
        pca: the map.
        array: of the coordinates.
        context: its reporter is told what happens, its stop asked between units.
        part: the units that are this process's; the caller holds them.

    Returns:
        How many units were written.

    Raises:
        StoppedError: `context` asked for it.
    """
    records = Records([*matrix.arrays, array], part)
    done, changed = records.written(array.name), records.out_of_date(array.name)
    mine = (unit for unit in range(array.units) if unit in part)
    ready = {unit: commit for unit in mine if (commit := matrix.committed(unit))}
    to_do = [
        unit
        for unit, commit in ready.items()
        if unit not in done or done[unit].rows < commit.rows or unit in changed
    ]
    if again := len(changed.keys() & set(to_do)):
        context.reporter.notice(
            f"{counted(again, 'unit was', 'units were')} made from rows that are "
            f"others now: once more"
        )
    if to_do and done:
        context.reporter.notice(f"resuming: {len(ready) - len(to_do)}/{len(ready)} units done")
    elif not to_do:
        context.reporter.notice(
            f"nothing to do: all {counted(len(ready), 'unit is', 'units are')} done"
        )
    context.reporter.begin("units", len(ready), done=len(ready) - len(to_do))

    def tell(written: Commit) -> None:
        if written.inf_rows:
            context.reporter.notice(
                f"unit {written.unit} has {counted(written.inf_rows, 'row')} with infinities; "
                "try --storage-dtype float32"
            )
        context.reporter.advance(1)

    names = [one.name for one in matrix.arrays]
    with UnitBatch(array, tell) as batch:
        for unit in to_do:
            context.stop_if_asked()
            commit = ready[unit]
            stored = _coordinates(matrix, pca, array, unit, commit.rows)
            inputs = records.inputs_of(names, unit, commit.rows)
            if unit in changed:
                array.forget(unit)  # first: its record must not vouch for the new chunk
                array.folder.remove(array.chunk_key(unit))  # nor one that is rebuilt for the old
            before = done.get(unit)
            batch.add(unit, stored, commit.ids, commit.failed, before, inputs)
    context.reporter.end()
    return len(to_do)


def _coordinates(
    matrix: FeatureMatrix, pca: Pca | RandomMap, array: UnitArray, unit: int, rows: int
) -> NDArray[Any]:
    """Return the coordinates of a unit's first rows; of a shard, which is large, a few at a time.

    Steps are whole chunks, and whole tiles of a product, so each row is found as among all.
    """
    found = np.empty((rows, *array.array.shape[1:]), array.array.dtype)
    step, first = lcm(matrix.stream_rows, TILE_ROWS), unit * array.unit_rows
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        with np.errstate(over="ignore"):
            found[start:stop] = pca.transform(matrix.read(first + start, first + stop))
    return found


def transform_work(matrix: FeatureMatrix, array: UnitArray) -> DividedWork:
    """Return the same as work that can be divided; each worker holds the units that it writes."""
    arguments: Config = {
        "store": place_of(matrix.store),
        "keep_removed": matrix.store.keep_removed,
        "features": list(matrix.features),
        "array": array.name,
        "fingerprint": array.fingerprint,
    }
    function = f"{__name__}:{open_transform.__name__}"
    return DividedWork(function, arguments, store=arguments["store"], units=array.units)


def open_transform(arguments: Config, place: Place, context: Context) -> RunSlice:
    """Open a fitted PCA in a worker, and return what transforms the units of a slice."""
    store = Store.open(arguments["store"], keep_removed=arguments["keep_removed"])
    name, key = arguments["array"], arguments["fingerprint"]
    feature_set = _array(store, name, key).feature_set
    pca, matrix = (
        load(store, key),
        open_features(store, arguments["features"], feature_set=feature_set),
    )

    def run(part: Slice) -> Config:
        with disk_errors_explained(store.where), store.writing(f"features/{name}", part=part):
            array = _array(
                store, name, key
            )  # held from here on, and perhaps not since the last slice
            return {"units": transform(matrix, pca, array, context, part)}

    return run


def _array(store: Store, name: str, key: str) -> UnitArray:
    """Return the array of the coordinates of a PCA.

    Raises:
        MismatchError: it is another PCA's by now.
    """
    array = UnitArray(store.backend, name)
    if array.fingerprint != key:
        raise MismatchError(
            "the PCA was fitted anew meanwhile",
            where=name,
            expected=key,
            found=array.fingerprint,
            hint="one command at a time writes a PCA: run this one again, or give another --name",
        )
    return array
