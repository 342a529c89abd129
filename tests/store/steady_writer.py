"""Publishes unit after unit, half of its rows and then all, going on where it was killed.

python steady_writer.py STORE CODEC
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fungistore.choices import Codec
from fungistore.store.local import LocalBackend
from fungistore.store.units import UnitArray

CODECS = get_args(Codec)[:2]  # the lossless ones
NAME = "vit/patches"
UNITS, UNIT_ROWS, ROW_SHAPE = 600, 64, (4, 4, 192)  # chunks of 0.4 MB


def rows(start: int, stop: int) -> NDArray[Any]:
    """Return what rows [start, stop) should hold."""
    width = int(np.prod(ROW_SHAPE))
    numbers = np.arange(start * width, stop * width) % 2039  # float16 counts to 2048
    return numbers.astype(np.float16).reshape(-1, *ROW_SHAPE)


def main(root: Path, codec: Codec) -> None:
    """Make the array if need be, then write what its commits lack."""
    if (root / "features.zarr" / NAME / "zarr.json").exists():
        array = UnitArray(LocalBackend(root), NAME)
    else:
        array = UnitArray.create(
            LocalBackend(root),
            NAME,
            shape=(UNITS * UNIT_ROWS, *ROW_SHAPE),
            dtype="float16",
            unit_rows=UNIT_ROWS,
            codec=codec,
            fingerprint="f",
        )
    print("writing", flush=True)
    for unit in range(UNITS):
        start = unit * UNIT_ROWS
        for count in (UNIT_ROWS // 2, UNIT_ROWS):
            commit = array.commit(unit)
            if commit is None or commit.rows < count:
                array.publish(unit, rows(start, start + count), ids="", failed=0)


if __name__ == "__main__":
    chosen = next(codec for codec in CODECS if codec == sys.argv[2])
    main(Path(sys.argv[1]), chosen)
