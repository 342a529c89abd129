"""Random batches of patch tensors: ours against a memory map and zarr's own indexing, paired.

All contenders deliver the same random batches of the same bytes: a plain NumPy memory map of one
file, gathered with `map[rows]`; our loader from the store's chunks; our loader from memory; and
zarr's `array.oindex`. They take turns, so that a machine whose speed drifts favours none; a ratio
is the median over rounds. With `--cold`, all files are also unmapped and the page cache emptied
before each turn (needs root; pages that are mapped would stay).

Ours reads ahead with threads into buffers that take turns, so it wants a second core: on one, or on
a machine with other work, the map's single buffer, which stays in the processor's cache, wins.

    python benchmarks/loff_loader.py --rows 6144 --rounds 9 --cold
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fungistore.choices import Codec
from fungistore.loff.loader import PatchLoader
from fungistore.loff.options import CacheChoice
from fungistore.machine.resources import reading_threads
from fungistore.store.local import LocalBackend
from fungistore.store.samples import Rows
from fungistore.store.units import UnitArray
from fungistore.training.order import Shuffled

SHAPE = (16, 16, 384)  # 256 patch tokens of ViT-S
EPOCHS = "ours, zstd, epochs"
OINDEX_BATCHES = 2  # it is slow
COLD_BATCHES = 8
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
Contender = Callable[[list[Rows]], None]


def main() -> None:
    """Print rates, and their ratios to the memory map and to oindex."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6144)
    parser.add_argument("--unit-rows", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=60, help="of a turn of the fast contenders")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=reading_threads())
    parser.add_argument("--directory", help="where to put the data; default: the temporary folder")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--shard-units", type=int, default=8, help="chunks of a shard; 1: none")
    parser.add_argument("--compressed", action="store_true", help="a zstd copy too")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.directory) as directory:
        compare(Path(directory), arguments)


def compare(directory: Path, arguments: argparse.Namespace) -> None:
    """Write the data, let the contenders take turns, and print a table for each temperature."""
    rows, batch_size = arguments.rows, arguments.batch_size
    array = write(directory / "plain", rows, arguments.unit_rows, "none", directory / "plain.bin")
    zarr_array = array.array

    def by_map() -> Contender:
        whole = np.memmap(directory / "plain.bin", np.float16, "r", shape=(rows, *SHAPE))

        def run(batches: list[Rows]) -> None:
            for batch in batches:
                whole[batch]

        return run

    def by_oindex() -> Contender:
        def run(batches: list[Rows]) -> None:
            for batch in batches:
                zarr_array.oindex[batch]

        return run

    def ours(cache: CacheChoice, array: UnitArray = array) -> Contender:
        order = Given(np.arange(rows), 0)
        loader = PatchLoader(array, order, batch_size, cache=cache, threads=arguments.threads)

        def run(batches: list[Rows]) -> None:
            order.batches = batches
            for _ in loader.epoch(0):
                pass

        return run

    contenders: dict[str, Callable[[], Contender]] = {
        "memory map": by_map,
        "ours, from disk": lambda: ours("none"),
        "ours, from memory": lambda: ours("ram"),
        "array.oindex": by_oindex,
    }
    if arguments.shard_units > 1:
        shards = write(
            directory / "shards", rows, arguments.unit_rows, "none", chunks=arguments.shard_units
        )
        contenders["ours, from shards"] = lambda: ours("none", shards)
    if arguments.compressed:
        packed = write(directory / "zstd", rows, arguments.unit_rows, "zstd")
        contenders[EPOCHS] = lambda: whole_epochs(packed, batch_size, arguments.threads)
    size = rows * np.prod(SHAPE) * 2 / 1e9
    print(f"{rows} rows, {size:.2f} GB, batches of {batch_size}, {arguments.threads} threads,")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    ready = {name: make() for name, make in contenders.items()}
    report("warm", {name: lambda run=run: run for name, run in ready.items()}, arguments)
    del ready
    if arguments.cold:
        contenders.pop("ours, from memory")
        report("cold", contenders, arguments)


class Given(Shuffled):
    """An order that yields the batches that the other contenders get."""

    batches: list[Rows]

    def draw(self, epoch: int) -> Rows:
        """Return the rows of the batches."""
        return np.concatenate(self.batches)


def whole_epochs(array: UnitArray, batch_size: int, threads: int) -> Contender:
    """Return a contender that reads an epoch in its own order, as compressed chunks must be."""
    order = Shuffled(np.arange(array.rows), 0)
    loader = PatchLoader(array, order, batch_size, cache="none", threads=threads)

    def run(batches: list[Rows]) -> None:
        for _ in loader.epoch(0):
            pass

    return run


def report(
    temperature: str, contenders: dict[str, Callable[[], Contender]], arguments: argparse.Namespace
) -> None:
    """Time the contenders in turn, and print the medians."""
    random = np.random.default_rng(0)
    row_bytes = np.prod(SHAPE) * 2
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(arguments.rounds + 1):
        for name, make in contenders.items():
            count = arguments.batches if temperature == "warm" else COLD_BATCHES
            count = OINDEX_BATCHES if name == "array.oindex" else count
            batches = [
                random.choice(arguments.rows, arguments.batch_size, replace=False)
                for _ in range(count)
            ]
            run = make()
            if temperature == "cold":
                drop_caches()
            began = time.perf_counter()
            run(batches)
            seconds = time.perf_counter() - began
            del run
            served = arguments.rows if name == EPOCHS else count * arguments.batch_size
            if turn:  # the first is warm-up
                rates[name].append(served * row_bytes / 1e9 / seconds)
    columns = ("GB/s", "lowest", "highest", "/ map", "/ oindex")
    print(f"{temperature:20}" + "".join(f"{column:>10}" for column in columns))
    for name, own in rates.items():
        ratios = [
            statistics.median(a / b for a, b in zip(own, rates[floor], strict=True))
            for floor in ("memory map", "array.oindex")
        ]
        numbers = (statistics.median(own), min(own), max(own), *ratios)
        print(f"{name:20}" + "".join(f"{number:10.3g}" for number in numbers))


def write(
    root: Path,
    rows: int,
    unit_rows: int,
    codec: Codec,
    copy: Path | None = None,
    chunks: int = 1,
) -> UnitArray:
    """Write an array of normal values, and the same bytes as one plain file."""
    array = UnitArray.create(
        LocalBackend(root),
        "vit/patches",
        shape=(rows, *SHAPE),
        dtype="float16",
        unit_rows=unit_rows * chunks,
        shard_units=chunks,
        codec=codec,
        fingerprint="benchmark",
    )
    random = np.random.default_rng(0)
    for unit in range(array.units):
        block = random.standard_normal((array.rows_of(unit), *SHAPE), np.float32)
        array.publish(unit, block.astype(np.float16), "", failed=0)
        if copy:
            with copy.open("ab") as file:
                file.write(block.astype(np.float16).tobytes())
    return array


def drop_caches() -> None:
    """Empty the page cache."""
    os.sync()
    DROP_CACHES.write_text("3")


if __name__ == "__main__":
    main()
