"""The coordinates of a PCA: unit by unit, of the rows that it does not have, or has of others."""

from __future__ import annotations

import numpy as np

from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.pca.components import Pca
from fungistore.pca.random_map import RandomMap
from fungistore.quantities import counted
from fungistore.store.batches import UnitBatch
from fungistore.store.commit import Commit
from fungistore.store.records import Records
from fungistore.store.units import UnitArray


def transform(
    matrix: FeatureMatrix, pca: Pca | RandomMap, array: UnitArray, context: Context
) -> int:
    """Write the coordinates of every unit that lacks rows, or was made from other rows.

    Returns:
        How many units were written.

    Raises:
        StoppedError: `context` asked for it.
    """
    records = Records([*matrix.arrays, array])
    done, changed = records.written(array.name), records.out_of_date(array.name)
    ready = {unit: c for unit in range(array.units) if (c := matrix.committed(unit))}
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
            commit, start = ready[unit], unit * array.unit_rows
            coordinates = pca.transform(matrix.read(start, start + commit.rows))
            with np.errstate(over="ignore"):
                stored = coordinates.astype(array.array.dtype)
            inputs = records.inputs_of(names, unit, commit.rows)
            if unit in changed:
                array.forget(unit)  # first: its record must not vouch for the new chunk
                array.folder.remove(array.chunk_key(unit))  # nor one that is rebuilt for the old
            before = done.get(unit)
            batch.add(unit, stored, commit.ids, commit.failed, before, inputs)
    context.reporter.end()
    return len(to_do)
