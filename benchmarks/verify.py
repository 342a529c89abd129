"""`fungi verify` against plainly hashing the same files with as many threads.

    python benchmarks/verify.py pets.fungi

The floor reads every chunk and takes its BLAKE2b, the hash that records have, and nothing else.
Contenders alternate, so that a busy machine slows both; medians of the ratios count, not the
times. The files should fit in the memory: what is measured is the work, not the disk.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fungistore.machine.context import QUIET
from fungistore.store.durable import file_digest
from fungistore.store.store import Store
from fungistore.verification import units
from fungistore.verification.arrays import StoredArray, read_arrays
from fungistore.verification.verify import verify_store


def main() -> None:
    """Print a line for each number of threads: rates, and the ratio to the floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    store = Store.open(asked.store)
    arrays = read_arrays(store, len(store.samples)).arrays
    chunks = [stored.array.chunk_path(unit) for stored in arrays for unit in stored.records]
    megabytes = sum(path.stat().st_size for path in chunks) / 1e6
    verify_store(asked.store)  # imports what the later stages need
    print(f"{len(chunks)} chunks, {megabytes:.0f} MB")
    for threads in asked.threads:
        with checking_with(threads):
            contenders: dict[str, Callable[[], object]] = {
                "plain": lambda threads=threads: hash_files(chunks, threads),
                "units": lambda: check(store, arrays),
                "verify": lambda: verify_store(asked.store),
            }
            seconds = race(contenders, asked.rounds)
        rates = {name: megabytes / statistics.median(times) for name, times in seconds.items()}
        ratios = {
            name: statistics.median(
                a / b for a, b in zip(seconds["plain"], seconds[name], strict=True)
            )
            for name in ("units", "verify")
        }
        print(
            f"{threads} threads: plain {rates['plain']:5.0f} MB/s, its units "
            f"{rates['units']:5.0f} ({ratios['units']:.2f} of the floor), all of verify "
            f"{rates['verify']:5.0f} ({ratios['verify']:.2f})"
        )


@contextmanager
def checking_with(threads: int) -> Iterator[None]:
    """Let `verify` use so many threads."""
    before = units.reading_threads
    units.reading_threads = lambda: threads
    try:
        yield
    finally:
        units.reading_threads = before


def race(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round; a round before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def hash_files(paths: list[Path], threads: int) -> None:
    """Hash files, and nothing else."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(file_digest, paths))


def check(store: Store, arrays: tuple[StoredArray, ...]) -> None:
    """Check the units alone, as `verify` does."""
    for unit in units.check_units(store, arrays, QUIET):
        assert not unit.findings, unit.findings


if __name__ == "__main__":
    main()
