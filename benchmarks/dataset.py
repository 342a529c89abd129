"""A DataLoader over `Store.dataset` against the loader of LOFF-TA and against zarr's own indexing.

All deliver random batches of the same patch tensors as one tensor each, and take turns; a ratio is
the median over rounds. The DataLoader is torch's, with its own collate; "zarr indexing" is the
Dataset that one would write by hand: `array[row]` of each item.

    python benchmarks/dataset.py --rows 4096 --rounds 7
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from fungistore.loff.loader import PatchLoader
from fungistore.sources.sample import Sample
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.training.order import Shuffled
from loff_loader import SHAPE, write

ZARR_ROWS = 128  # it is slow


class Listed:
    """A source of samples whose files do not exist."""

    root = "/nowhere"

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def label_names(self) -> list[str]:
        """Return one class."""
        return ["a"]

    def __iter__(self) -> Any:
        return (Sample(f"{row}.jpg", f"{row}.jpg", "a") for row in range(self._rows))


class ByHand(Dataset[torch.Tensor]):
    """Items as zarr's indexing reads them."""

    def __init__(self, array: UnitArray, rows: int) -> None:
        self._array, self._rows = array.array, rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self._array[index]))


def main() -> None:
    """Print rates, and their ratios to the loader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--unit-rows", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows, size = arguments.rows, arguments.batch_size
    with TemporaryDirectory() as directory:
        store = Store.open_or_create(directory)
        add_source(store, Listed(rows))
        array = write(Path(directory), rows, arguments.unit_rows, "none")
        dataset = store.dataset("patches")
        ours = PatchLoader(array, Shuffled(np.arange(rows), 0), size, cache="none")

        def torch_loader(workers: int) -> Callable[[], int]:
            loader = DataLoader(
                dataset, size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
            )
            return lambda: sum(len(batch["patches"]) for batch in loader)

        def by_hand() -> int:
            sampler = RandomSampler(range(rows), num_samples=ZARR_ROWS)
            return sum(map(len, DataLoader(ByHand(array, rows), size, sampler=sampler)))

        contenders: dict[str, Callable[[], int]] = {
            "LOFF loader": lambda: sum(len(batch.values) for batch in ours.epoch(0)),
            "DataLoader": torch_loader(0),
            "DataLoader, 1 worker": torch_loader(1),
            "DataLoader, 2 workers": torch_loader(2),
            "zarr indexing": by_hand,
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(arguments.rounds + 1):
            for name, run in contenders.items():
                began = time.perf_counter()
                served = run()
                if turn:  # the first is warm-up
                    rates[name].append(served / (time.perf_counter() - began))
    row_bytes = int(np.prod(SHAPE)) * 2
    print(f"{rows} rows of {row_bytes / 1e3:.0f} kB, batches of {size}, {os.cpu_count()} cores,")
    print(f"load {os.getloadavg()[0]:.1f}\n{'':24}{'rows/s':>10}{'GB/s':>8}{'/ loader':>10}")
    for name, own in rates.items():
        pairs = zip(own, rates["LOFF loader"], strict=True)
        ratio = statistics.median(one / loader for one, loader in pairs)
        rate = statistics.median(own)
        print(f"{name:24}{rate:10.0f}{rate * row_bytes / 1e9:8.2f}{ratio:10.2f}")


if __name__ == "__main__":
    main()
