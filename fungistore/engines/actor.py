"""What runs on a node of a cluster: it opens the work once, and takes slice after slice."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Condition
from typing import Any

from fungistore.engines.engine import DividedWork, Place, RunSlice
from fungistore.engines.sight import Sight, refuse_other_sight
from fungistore.errors import DEBUG, error_to_wire, explained
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.machine.resources import allowed_cores
from fungistore.store.locks import Slice

PACKAGES = ("fungistore", "torch", "torchvision", "timm")
CPUINFO = Path("/proc/cpuinfo")
CONTROL = "control"  # the group of the methods that are answered while a slice runs
THREADS = "OMP_NUM_THREADS"
MOST_KEPT = 200  # notices between two looks of the driver


class Telling:
    """A reporter that keeps what it is told until the driver asks; any thread may tell."""

    def __init__(self) -> None:
        self.part: Slice | None = None
        self._changed = Condition()
        self._notices: list[str] = []
        self._what = ""
        self._total = self._done = 0
        self._began = 0
        self._is_news = False

    def notice(self, text: str) -> None:
        """Keep a notice; how far a single slice is is no news to anybody."""
        if self.part is not None and text.startswith(f"{self.part}: "):
            return
        with self._changed:
            if len(self._notices) < MOST_KEPT:
                self._notices.append(text)
            self._news()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Keep the start of a display."""
        with self._changed:
            self._what, self._total, self._done, self._began = what, total, done, done
            self._news()

    def advance(self, count: int) -> None:
        """Keep a step."""
        with self._changed:
            self._done += count
            self._news()

    def end(self) -> None:
        """Keep nothing: the result says it."""

    def turn_to(self, part: Slice | None) -> None:
        """Begin with a slice."""
        with self._changed:
            self.part, self._what = part, ""

    def take(self, seconds: float) -> Config:
        """Return what is new, after so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_news, seconds)
            news: Config = {"notices": self._notices}
            if self.part is not None and self._what:
                news |= {"index": self.part.index, "what": self._what, "began": self._began}
                news |= {"total": self._total, "done": self._done}
            self._notices, self._is_news = [], False
        return news

    def _news(self) -> None:
        self._is_news = True
        self._changed.notify_all()


class Actor:
    """A worker on a node; its errors come back as documents, as those of a process do."""

    def __init__(self) -> None:
        self._telling = Telling()
        self._stopping = Condition()
        self._is_stopping = False
        self._run: RunSlice | None = None

    def kind(self) -> Config:
        """Return which node this is, what machine, and which versions compute on it."""
        import ray

        return {"node": ray.get_runtime_context().get_node_id(), "kind": machine_kind()}

    def open(
        self,
        work: Config,
        place: Config,
        sight: Config,
        arguments: list[str],
        threads: str | None = None,
    ) -> Config | None:
        """Get ready for slices; returns what went wrong.

        Args:
            work: fields of `DividedWork`.
            place: fields of `Place`.
            sight: fields of the driver's `Sight`.
            arguments: the driver's, which claims then tell.
            threads: what its OMP_NUM_THREADS says; default: this worker's part of the cores.
        """
        where = Place(**place)
        sys.argv = arguments
        # before anything imports torch; Ray has set it to what is reserved, not to what is there
        share = str(max(1, int(allowed_cores() / where.neighbours)))
        os.environ[THREADS] = threads or share
        try:
            refuse_other_sight(Sight(**sight), where.node)
            self._run = DividedWork(**work).open(where, Context(self._telling, self._asked))
        except Exception as error:
            return _document(error)
        return None

    def run(self, index: int, count: int) -> Config:
        """Run a slice; returns its result, or what went wrong, and what is not told yet."""
        assert self._run is not None
        part = Slice(index, count)
        self._telling.turn_to(part)
        try:
            document: Config = {"result": self._run(part)}
        except Exception as error:
            document = _document(error)
        news = self._telling.take(0)
        self._telling.turn_to(None)
        return document | {"news": news}

    def events(self, least: float, most: float) -> Config:
        """Return what is new after so many seconds: the least, and if nothing is, the most."""
        with self._stopping:
            self._stopping.wait_for(lambda: self._is_stopping, least)
        return self._telling.take(most)

    def stop(self) -> None:
        """Ask the slice that runs to stop after its batch."""
        with self._stopping:
            self._is_stopping = True
            self._stopping.notify_all()

    def _asked(self) -> bool:
        return self._is_stopping


def remote_actor(ray: Any) -> Any:
    """Return `Actor` as a class of Ray's: what is asked of it while a slice runs is answered."""

    class Worker(Actor):
        # marked here and not where it is called: clients behind ray:// cannot say it there
        @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
        def events(self, least: float, most: float) -> Config:
            return super().events(least, most)

        @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
        def stop(self) -> None:
            super().stop()

    return ray.remote(concurrency_groups={CONTROL: 2})(Worker)


def machine_kind() -> dict[str, str]:
    """Return what decides the last digits of a result: versions, processor, GPU."""
    found = {name: _version(name) for name in PACKAGES}
    return found | {"machine": platform.machine(), "processor": _processor(), "GPU": _gpu()}


def _document(error: Exception) -> dict[str, Any]:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    return {"error": error_to_wire(error), "exit_code": explained(error).exit_code}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _processor() -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def _gpu() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = sorted(
        line.partition(":")[2].strip()
        for path in Path("/proc/driver/nvidia/gpus").glob("*/information")
        for line in path.read_text().splitlines()
        if line.startswith("Model:")
    )
    return "none" if visible == "" or not names else names[0]
