"""Samples that are longer than an encoder takes, and whose ends it never saw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fungistore.extraction.resolve import Resolved
from fungistore.machine.context import Context
from fungistore.quantities import counted
from fungistore.store.feature import EMBEDDINGS, LENGTHS
from fungistore.store.units import UnitArray


def count_cut(
    arrays: Mapping[str, UnitArray], rows: int, resolved: Resolved, context: Context
) -> int:
    """Count the first rows of a feature set whose ends were left out, and say so."""
    array = arrays.get(LENGTHS + EMBEDDINGS)
    if array is None:
        return 0
    (group,) = resolved.backbone.base_view.groups
    cut = 0
    for unit, commit in array.commits().items():
        start = unit * array.unit_rows
        stop = min(start + commit.rows, rows)
        cut += int(np.count_nonzero(array.read(start, stop) > group.size)) if start < stop else 0
    if cut:
        items = resolved.modality
        said = counted(cut, f"{items.item} is", f"{items.items} are")
        context.reporter.notice(
            f"{said} longer than the {group.size} that the model is given (--max-length): their "
            "ends are left out"
        )
    return cut
