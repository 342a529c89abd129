"""Kills an operation on a store before each of its steps on the disk, each time on a fresh copy.

    python crash_points.py OPERATION FOLDER

makes FOLDER/before, then FOLDER/000, FOLDER/001, ...: copies in which a process worked until it
was about to open (for writing), rename or remove its n-th file, and died there. (A folder that it
had just made is seen at the next of these.) The last copy is of the process that came through.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from list_source import numbered

from fungistore.store.failures import Failure
from fungistore.store.listing import add_source
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

KILLED = 9
STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CONFIG = {"seed": 1, "backbone": {"model": "vit"}}
TENSORS = {"tensors": {"head": np.arange(6.0).reshape(2, 3)}}
VALUES = np.random.default_rng(0).standard_normal((12, 96)).astype(np.float16)
OLD_ROWS, UNIT_ROWS = 6, 4


def nothing(root: Path) -> None:
    """Leave no store."""


def empty(root: Path) -> None:
    """Make a store."""
    Store.open_or_create(root)


def sampled(root: Path) -> None:
    """Make a store with samples."""
    add_source(Store.open_or_create(root), numbered(5))


def grown(root: Path) -> None:
    """Add samples, known ones before new ones."""
    add_source(Store.open_or_create(root), numbered(8))


def frozen(root: Path) -> None:
    """Freeze a setup."""
    Store.open_or_create(root).setups.freeze(CONFIG, TENSORS, {"options": {"seed": 1}})


def arrayed(root: Path) -> None:
    """Make the arrays of a feature set that are missing."""
    store = Store.open_or_create(root)
    store.sweep()
    arrays = store.arrays("vit")
    for name in ("embeddings", "gradients/kl"):
        if name not in arrays:
            UnitArray.create(
                LocalBackend(root),
                f"vit/{name}",
                shape=(OLD_ROWS, 96),
                dtype="float16",
                unit_rows=UNIT_ROWS,
                codec="none" if name == "embeddings" else "zstd",
                fingerprint="f",
            )


def published(root: Path) -> None:
    """Publish the units that are not done, the last one partly filled."""
    arrayed(root)
    _publish(root)


def completed(root: Path) -> None:
    """Lengthen the arrays, complete the partly filled unit, and publish a new one."""
    for array in Store.open(root).arrays("vit").values():
        array.grow(len(VALUES))
    _publish(root)


def _publish(root: Path) -> None:
    for array in Store.open(root).arrays("vit").values():
        for unit in range(array.units):
            start, stop = unit * UNIT_ROWS, min((unit + 1) * UNIT_ROWS, array.rows)
            commit = array.commit(unit)
            if commit is None or commit.rows < stop - start:
                array.publish(unit, VALUES[start:stop], ids="", failed=0)


def removed(root: Path) -> None:
    """Remove every array."""
    store = Store.open(root)
    store.remove_arrays(store.arrays("vit").values())


def failed(root: Path) -> None:
    """Note failures, one of them twice."""
    store = Store.open_or_create(root)
    store.add_failures([Failure(row, f"{row}.jpg", "ImageError", "cut short") for row in (7, 2, 7)])


def compacted(root: Path) -> None:
    """Compact the failures."""
    Store.open(root).compact_failures()


Operation = Callable[[Path], None]
OPERATIONS: dict[str, tuple[Operation, Operation]] = {  # what is there before, what is killed
    "create": (nothing, empty),
    "add source": (empty, sampled),
    "grow source": (sampled, grown),
    "freeze setup": (empty, frozen),
    "create arrays": (empty, arrayed),
    "publish": (arrayed, published),
    "complete": (published, completed),
    "remove arrays": (published, removed),
    "compact failures": (failed, compacted),
}


def kill_before_step(number: int, folder: str) -> None:
    """Let this process die when it is about to do its step of that number below a folder."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in STEPS or not _path(event, arguments).startswith(folder):
            return
        if event == "open" and not arguments[2] & WRITING:
            return
        if count == number:
            os._exit(KILLED)
        count += 1

    sys.addaudithook(watch)


def _path(event: str, arguments: tuple[Any, ...]) -> str:
    """Return what a step is about; `shutil.rmtree` removes files by a name in an open folder."""
    path = str(arguments[0])
    if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
        return os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
    return path


def in_child(work: Callable[[], None]) -> int:
    """Run something in a forked process; zarr's threads must not have been started before."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(name: str, folder: Path) -> int:
    """Make the copies; returns 1 if the operation fails rather than dies."""
    os.fsync = lambda descriptor: None  # a kill loses nothing that was written
    before, operation = OPERATIONS[name]
    original = folder / "before"
    if in_child(lambda: before(original)):
        return 1
    code, number = KILLED, 0
    while code == KILLED:
        copy = folder / f"{number:03d}"
        if original.exists():
            shutil.copytree(original, copy)

        def work(number: int = number, copy: Path = copy) -> None:
            kill_before_step(number, str(copy))
            operation(copy)

        code, number = in_child(work), number + 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
