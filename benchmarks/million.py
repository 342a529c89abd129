"""PCA, indexes and nearest neighbours of a million rows: time and peak memory of each command.

    python benchmarks/million.py [--rows N] [--keep DIRECTORY]

Makes a synthetic store (two float16 blocks of 384, so 768 wide; 10,000 rows are the test split),
then runs `fungi` commands on it, each in a process of its own. Needs 10 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fungistore.fingerprint import fingerprint
from fungistore.sources.sample import Sample
from fungistore.store.listing import add_source
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

DIM, CLASSES, TEST_ROWS, UNIT_ROWS = 384, 100, 10_000, 16_384
RANK = 64  # real features are far from full rank


class Synthetic:
    """Samples without images."""

    root = "/nowhere"

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def label_names(self) -> list[str]:
        """Return the class names."""
        return [f"{number:03d}" for number in range(CLASSES)]

    def __iter__(self) -> Iterator[Sample]:
        """Yield samples; the first ones are the test split."""
        for row in range(self._rows):
            split = "test" if row < TEST_ROWS else "train"
            yield Sample(f"{row:09d}", f"{row:09d}", f"{row % CLASSES:03d}", split)


def main() -> None:
    """Make the store and run every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="make the store here, and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (arguments.keep or Path(temporary)) / "million.fungi"
        if not Store.exists(root):
            make(root, arguments.rows)
        ivf, pq = "IVF1024,Flat", "IVF1024,PQ48"
        for command in (
            ["pca", root, "--dim", "256", "--name", "p"],
            ["index", root, "--name", "ivf", "--factory", ivf],
            ["index", root, "--name", "pq", "--factory", pq],
            ["index", root, "--pca", "p", "--name", "pca-ivf", "--factory", ivf],
            ["eval", "knn", root],
        ):
            measure([*map(str, command), "--json"], root)


def make(root: Path, rows: int) -> None:
    """Write the store: Gaussian classes in a space of low rank, and noise."""
    random = np.random.default_rng(0)
    store = Store.open_or_create(root)
    add_source(store, Synthetic(rows))
    for name in ("embeddings", "gradients/kl"):
        mixing = random.normal(size=(RANK, DIM)) / RANK**0.5
        centres = random.normal(size=(CLASSES, RANK))
        config = {"schema": 1, "made": name}
        store.setups.freeze(config, {}, {})
        array = UnitArray.create(
            LocalBackend(root),
            f"set/{name}",
            shape=(rows, DIM),
            dtype="float16",
            unit_rows=UNIT_ROWS,
            codec="none",
            fingerprint=fingerprint(config),
        )
        for unit in range(array.units):
            count, start = array.rows_of(unit), unit * UNIT_ROWS
            latent = centres[np.arange(start, start + count) % CLASSES]
            latent = latent + random.normal(size=latent.shape)
            vectors = latent @ mixing + 0.05 * random.normal(size=(count, DIM))
            array.publish(unit, vectors.astype(np.float16), "synthetic", 0)


def measure(command: list[str], root: Path) -> None:
    """Run a command and print its time and peak memory, beside the size of an index."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fungi_cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    line = f"fungi {' '.join(command).replace(str(root), 'STORE')}"
    code = os.waitstatus_to_exitcode(status)
    print(f"{line}\n    {seconds:.0f} s, peak {usage.ru_maxrss / 2**20:.2f} GiB, exit {code}")
    for path in sorted((root / "indexes").rglob("*.faiss")):
        print(f"    {path.relative_to(root)}: {path.stat().st_size / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
