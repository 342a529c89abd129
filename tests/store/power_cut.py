"""A file system that loses what was not flushed, as a model: what a power cut may leave of a store.

A `Recorder` writes down what a run does to a folder: folders made, files flushed, renamed and
removed, folders flushed. A `Disk` replays the first of these steps and yields what POSIX lets be
there after a cut at that moment:

- of a folder that was not flushed since, each changed name is independently as it was, or as any
  later change made it (renames reordered, some kept and some lost);
- of a file that was not flushed since it was written, the bytes are the old ones, none, half of the
  new ones, zeros, or the new ones.

Promises (units that were committed) are recorded too, so that it can be told what must not be lost.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import patch

from fungistore.store.durable import PARTIAL
from fungistore.store.local_claims import LOCKS
from fungistore.store.units import UnitArray

Tree = dict[str, bytes | None]  # files, and folders as None, by their path
MOST_OUTCOMES = 48  # of one moment; more are drawn at random


class Killed(BaseException):
    """A process that is killed does nothing more."""


@dataclass(frozen=True)
class Step:
    """One thing that a run did: "mkdir", "rename", "remove", "write", "flush", "flush folder",
    "promise" (of a unit's rows and checksum) or "forget"."""

    kind: str
    path: str
    data: Any = None


class Recorder:
    """Writes down the steps of a run below a folder; flushes are not passed on, to save time.

    Args:
        top: the folder.
        kill_at: the number of the step that is not done any more, nor any later one.
    """

    def __init__(self, top: Path, kill_at: int | None = None) -> None:
        self.steps: list[Step] = []
        self._top = str(top)
        self._kill_at = kill_at
        self._lock = Lock()
        self._is_dead = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in ("mkdir", "rename", "unlink", "rmdir", "fsync"):
                stack.enter_context(patch.object(os, name, self._watch(name, getattr(os, name))))
            publish, forget = UnitArray.publish_all, UnitArray.forget

            def published(array: UnitArray, units: Any) -> Any:
                commits = publish(array, units)
                for commit in commits:
                    self._add(Step("promise", array.name, commit))
                return commits

            def forgotten(array: UnitArray, unit: int) -> None:
                self._add(Step("forget", array.name, unit))
                forget(array, unit)

            stack.enter_context(patch.object(UnitArray, "publish_all", published))
            stack.enter_context(patch.object(UnitArray, "forget", forgotten))
            yield

    def _add(self, step: Step) -> None:
        with self._lock:
            if self._is_dead or len(self.steps) == self._kill_at:
                self._is_dead = True
                raise Killed
            self.steps.append(step)

    def _watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(place: Any, *arguments: Any, **named: Any) -> Any:
            path = self._below(place, named.get("dir_fd"))
            if path is not None:
                self._see(name, path, *arguments)
                if name == "fsync":
                    return None
            return call(place, *arguments, **named)

        return watched

    def _see(self, name: str, path: str, *arguments: Any) -> None:
        if name == "fsync":
            full = Path(self._top, path)
            if full.is_dir():
                self._add(Step("flush folder", path))
            else:
                data = full.read_bytes()
                self._add(Step("write", path, data))
                self._add(Step("flush", path, data))
        elif name == "rename":
            target = self._below(arguments[0], None)
            assert target is not None
            self._add(Step("rename", target, path))
        elif name == "mkdir":
            if not Path(self._top, path).exists():
                self._add(Step("mkdir", path))
        elif not path.endswith(PARTIAL):
            self._add(Step("remove", path))

    def _below(self, place: Any, folder: int | None) -> str | None:
        """Return a path below the top, None for others and for locks."""
        if isinstance(place, int):
            path = os.readlink(f"/proc/self/fd/{place}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), place)
        else:
            path = os.path.abspath(place)
        if not path.startswith(f"{self._top}/") and path != self._top:
            return None
        below = os.path.relpath(path, self._top)
        return None if LOCKS in below.split("/") else below


@dataclass
class File:
    """A file: its bytes on the disk, None where nothing says that any are, and those in memory."""

    durable: bytes | None
    now: bytes


@dataclass
class Folder:
    """A folder: its names on the disk, those in memory, and what each was since the last flush."""

    durable: dict[str, File | Folder] = field(default_factory=dict)
    now: dict[str, File | Folder] = field(default_factory=dict)
    changes: dict[str, list[File | Folder | None]] = field(default_factory=dict)

    def change(self, name: str, node: File | Folder | None) -> None:
        self.changes.setdefault(name, []).append(node)
        if node is None:
            self.now.pop(name, None)
        else:
            self.now[name] = node


class Disk:
    """The state of a disk and of the memory before it, after some steps."""

    def __init__(self) -> None:
        self.top = Folder()
        self.promises: dict[tuple[str, int], Any] = {}
        self._unnamed: dict[str, File] = {}

    def do(self, step: Step) -> None:
        """Do one more step."""
        kind, path, data = step.kind, step.path, step.data
        if kind == "promise":
            self.promises[path, data.unit] = data
        elif kind == "forget":
            self.promises.pop((path, data), None)
        elif kind in ("write", "flush") and path.endswith(PARTIAL):
            self._unnamed[path] = File(data if kind == "flush" else None, data)
        elif kind == "flush folder":
            folder = self._folder(path)
            folder.durable, folder.changes = dict(folder.now), {}
        else:
            parent, name = self._folder(os.path.dirname(path)), os.path.basename(path)
            if kind == "mkdir":
                parent.change(name, Folder())
            elif kind == "remove":
                parent.change(name, None)
                self._forget_all(path.partition("/commits/")[2])
            elif kind == "rename":
                if data.endswith(PARTIAL):
                    parent.change(name, self._unnamed.pop(data, File(None, b"?")))
                else:
                    before = self._folder(os.path.dirname(data))
                    parent.change(name, before.now[os.path.basename(data)])
                    before.change(os.path.basename(data), None)
                    self._forget_all(data.partition("/commits/")[2])
            elif kind == "write":
                if not isinstance(file := parent.now.get(name), File):
                    parent.change(name, file := File(None, b""))
                file.now = data
            else:
                file = parent.now[name]
                assert isinstance(file, File)
                file.durable = data

    def _forget_all(self, removed: str) -> None:
        """A record that is removed with its array is promised no more."""
        for name, unit in list(self.promises):
            if removed in (name, f"{name}/{unit:08d}.json"):
                del self.promises[name, unit]

    def _folder(self, path: str) -> Folder:
        folder = self.top
        for name in path.split("/") if path not in ("", ".") else ():
            below = folder.now[name]
            assert isinstance(below, Folder)
            folder = below
        return folder

    def outcomes(self, chance: random.Random, most: int = MOST_OUTCOMES) -> Iterator[Tree]:
        """Yield what a power cut may leave: all of it where that is little, else the extremes,
        each loss by itself, and some drawn at random."""
        sizes: list[int] = []

        def newest(options: Sequence[object]) -> int:
            sizes.append(len(options))
            return len(options) - 1

        yield _grow(self.top, newest)
        for pick in _picks(len(sizes), max(sizes, default=1), chance, most):
            yield _grow(self.top, partial(_in_turn, iter(pick)))


def _picks(count: int, widest: int, chance: random.Random, most: int) -> Iterator[tuple[int, ...]]:
    """Yield numbers for the choices, which are taken modulo the options that there are."""
    if widest**count <= most:
        yield from itertools.product(range(widest), repeat=count)
        return
    yield (0,) * count
    for place in range(min(count, most // 3)):
        yield tuple(0 if other == place else -1 for other in range(count))
        yield tuple(-1 if other == place else 0 for other in range(count))
    for _ in range(most // 3):
        yield tuple(chance.randrange(widest) for _ in range(count))


def _in_turn(pick: Iterator[int], options: Sequence[object]) -> int:
    return next(pick, 0) % len(options)


def _grow(top: Folder, choose: Callable[[Sequence[object]], int]) -> Tree:
    """Return a tree in which each choice was made by `choose`, from the oldest to the newest."""
    tree: Tree = {}

    def visit(folder: Folder, path: str) -> None:
        for name in sorted({*folder.durable, *folder.changes}):
            if name.endswith(PARTIAL):
                continue  # swept by the next writer, whatever is left of it
            options: list[Any] = [folder.durable.get(name)]
            options += [node for node in folder.changes.get(name, ()) if node is not options[-1]]
            node = options[choose(options)] if len(options) > 1 else options[0]
            if isinstance(node, Folder):
                tree[f"{path}{name}"] = None
                visit(node, f"{path}{name}/")
            elif isinstance(node, File):
                contents = _contents(node)
                tree[f"{path}{name}"] = contents[choose(contents) if len(contents) > 1 else 0]

    visit(top, "")
    return tree


def _contents(file: File) -> list[bytes]:
    if file.durable == file.now:
        return [file.now]
    old = file.durable or b""
    more = len(file.now) - len(old)
    return [old, b"", file.now[: len(old) + more // 2], old + bytes(max(more, 0)), file.now]


def write_tree(tree: Tree, top: Path) -> None:
    """Write what is left after a power cut."""
    for path, data in tree.items():  # folders come before what is in them
        if data is None:
            (top / path).mkdir(parents=True, exist_ok=True)
        else:
            (top / path).write_bytes(data)
