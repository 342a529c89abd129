"""A cluster to kill nodes of, a driver to kill, and a witness of what is committed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fungistore.extraction.options import ExtractOptions
from fungistore.machine.context import QUIET
from fungistore.store.store import Store
from tiny_world import TINY, write_images

NODES = Path(__file__).with_name("ray_nodes.py")
PATIENCE = 240.0


def asked(weights: Path, unit_rows: int) -> ExtractOptions:
    """What the clusters are asked for."""
    return ExtractOptions(
        model=TINY,
        weights=str(weights),
        image_size=32,
        features=("embeddings", "kl"),
        device="cpu",
        dtype="float32",
        batch_size=4,
        unit_rows=unit_rows,
        workers=1,
    )


def words(options: ExtractOptions, store: str) -> list[str]:
    """The same as flags; the images are below the working directory."""
    return [
        *("extract", "images", store, "--model", options.model, "--weights", str(options.weights)),
        *("--image-size", "32", "--features", ",".join(options.features), "--device", "cpu"),
        *("--dtype", "float32", "--batch-size", "4", "--unit-rows", str(options.unit_rows)),
        *("--workers", "1"),
    ]


def world(folder: Path, count: int) -> Path:
    """Write images of two classes, and return the folder."""
    for seed, label in enumerate(("cat", "dog")):
        write_images(folder / "images" / label, count // 2, seed=seed)
    return folder


@dataclass
class Nodes:
    """A running cluster."""

    process: subprocess.Popen[str]
    address: str = ""

    def _say(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def add(self) -> None:
        """Let a node join."""
        assert self._say("add") == "add"

    def kill(self) -> None:
        """Kill the node that joined last, with all that runs on it."""
        assert self._say("kill") == "kill"

    def actors(self) -> int:
        """Return how many actors there have been, dead ones among them."""
        return int(self._say("actors"))


@contextmanager
def nodes(log: Path) -> Iterator[Nodes]:
    """Start two nodes, and end them by their processes whatever happens."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(NODES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, log.read_text()[-2000:]
        yield Nodes(process, address)
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


@contextmanager
def gate(store: Path | str, name: str) -> Iterator[None]:
    """Let no slice begin until the end of the block.

    It is what another process does that freezes the setup: whoever comes next waits.
    """
    with Store.open(store).writing(f"prepare/{name}", patience=QUIET):
        yield


def wait_until_at_work(
    store: Path | str, name: str, workers: int, but: Set[int] = frozenset()
) -> set[int]:
    """Let a few slices begin at a time, until so many processes have been seen within one.

    Workers are ready seconds after each other: the first of them has not done everything by then.

    Args:
        store: place of the store.
        name: of the feature set.
        workers: how many to wait for.
        but: processes that do not count, such as dead ones whose leases have not run out.

    Returns:
        The processes.
    """
    opened, seen = Store.open(store), set[int]()
    deadline = time.monotonic() + PATIENCE
    while True:
        closes = time.monotonic() + 0.4
        while time.monotonic() < closes:
            seen |= {claim.pid for claim in opened.writers() if claim.count > 1} - but
            time.sleep(0.002)
        if len(seen) >= workers:
            return seen
        assert time.monotonic() < deadline, f"{len(seen)} of {workers} workers at work"
        with gate(store, name):
            time.sleep(1.5)


@dataclass
class Witness:
    """Looks at a store's records all the time: a unit committed again is a new file.

    Attributes:
        seen: each record's inode and time of change when it was first there.
        changed: records that were something else later.
    """

    store: Path
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[Witness]:
        """Look until the end of the block, and once more."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
        self.look()

    def look(self) -> None:
        """Compare all records with what they were."""
        for path in self.store.glob("commits/**/*.json"):
            status = path.stat()
            mark = (status.st_ino, status.st_mtime_ns)
            if self.seen.setdefault(str(path), mark) != mark:
                self.changed.append(str(path))

    def wait_for(self, records: int, driver: subprocess.Popen[str]) -> bool:
        """Wait until so many records are there; False if the driver ended before."""
        deadline = time.monotonic() + PATIENCE
        while len(self.seen) < records:
            if driver.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"{len(self.seen)} of {records} records"
            time.sleep(0.02)
        return True


@contextmanager
def driver(arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `fungi` in a process that is killed at the end of the block, if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fungi_cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
