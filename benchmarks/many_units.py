"""How the time of a store's commands grows with the number of its units: it should double.

    python benchmarks/many_units.py [UNITS ...]          default: 4000 8000

makes a store of two-row units for each number of units, by `fungi import`, and takes the time of
what lists, commits or reads all of them. Rows are tiny: what is measured is the work of a unit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import fungistore as fungi

UNIT_ROWS, DIM = 2, 8


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(units: int, folder: Path) -> dict[str, float]:
    """Return the seconds of each command on a store of some units."""
    rows = units * UNIT_ROWS
    file, root = folder / "vectors.npy", folder / "s.fungi"
    np.save(file, np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float32))
    ids = folder / "ids.csv"
    ids.write_text("path\n" + "".join(f"{row:08d}.jpg\n" for row in range(rows)))
    options = fungi.ImportOptions(table=str(ids), unit_rows=UNIT_ROWS)
    steps: dict[str, Callable[[], object]] = {
        "import": lambda: fungi.import_features([file], root, options),
        "import again": lambda: fungi.import_features([file], root, options),
        "pca": lambda: fungi.fit_pca(root, fungi.PcaOptions(dim=4, name="four")),
        "index": lambda: fungi.build_index(root),
        "status": lambda: fungi.status(root),
        "verify": lambda: fungi.verify_store(root),
    }
    return {name: seconds(work) for name, work in steps.items()}


def main(counts: list[int]) -> None:
    """Print a line for each command, a column for each number of units."""
    found = []
    for units in counts:
        with TemporaryDirectory() as folder:
            found.append(measure(units, Path(folder)))
    print(f"{'':14}" + "".join(f"{units:>10} units" for units in counts))
    for name in found[0]:
        print(f"{name:14}" + "".join(f"{times[name]:>14.2f} s" for times in found))


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [4000, 8000])
