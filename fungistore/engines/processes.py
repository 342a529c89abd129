"""Several worker processes on this machine, one a device, shown as one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from fungistore.engines.engine import DividedWork, Place
from fungistore.engines.events import RUN
from fungistore.errors import FungiError, StoppedError, UsageError, error_from_json, refuse_text
from fungistore.fingerprint import Config
from fungistore.machine.children import python_command, python_environment
from fungistore.machine.context import Context, stopped
from fungistore.machine.resources import allowed_cores
from fungistore.report import Reporter
from fungistore.store.locks import Slice

SEVERITY = (5, 4, 2, 1, StoppedError.exit_code)  # worst first; whatever else ends like 1
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Processes:
    """The engine that starts a process for each device, also several for one.

    Attributes:
        devices: of the workers, one each, such as ("cuda:0", "cuda:1") or ("cpu", "cpu").
    """

    devices: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse with UsageError to be no workers at all, or one for each letter of a text."""
        refuse_text("devices", self.devices)
        if not self.devices:
            raise UsageError("no workers", expected="a device or more", found="none")

    def run(self, work: DividedWork, context: Context) -> list[Config]:
        """Start a worker for each device and show them as one until all have ended.

        A worker that fails leaves the others going; a request to stop is handed on to all.

        Raises:
            FungiError: the worst of the workers' errors, by class; the others are told.
        """
        lines: Lines = SimpleQueue()
        workers: list[_Worker] = []
        try:
            for index, device in enumerate(self.devices):
                part = Slice(index, len(self.devices))
                workers.append(_start(work, Place(device, part.count), part, lines))
            _follow(workers, lines, context)
        finally:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.terminate()
            for worker in workers:
                worker.close()
        raise_worst([error for worker in workers if (error := worker.error)], context.reporter)
        return [worker.document["result"] for worker in workers]


@dataclass
class _Worker:
    """A process that was started, and what it has told."""

    part: Slice
    process: subprocess.Popen[str]
    listeners: list[threading.Thread] = field(default_factory=list)
    what: str = ""
    total: int = 0
    done: int = 0
    document: dict[str, Any] = field(default_factory=dict)
    is_stopping: bool = False

    def listen(self, lines: Lines) -> None:
        """Read both of its streams, so that it never waits for a reader."""
        for read in (self._events(lines), self._result()):
            thread = threading.Thread(target=read, daemon=True)
            thread.start()
            self.listeners.append(thread)

    def stop(self) -> None:
        """Ask it to stop, once."""
        if not self.is_stopping:
            self.is_stopping = True
            self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Wait for its end, and for what it said last."""
        self.process.wait()
        for thread in self.listeners:
            thread.join()

    def _events(self, lines: Lines) -> Callable[[], None]:
        stream = self.process.stderr
        assert stream is not None

        def read() -> None:
            with stream:
                for line in stream:
                    lines.put((self, line.rstrip("\n")))
            lines.put((self, None))

        return read

    def _result(self) -> Callable[[], None]:
        stream = self.process.stdout
        assert stream is not None

        def read() -> None:
            with stream:
                text = stream.read()
            with suppress(ValueError):  # killed before it had said all of it
                self.document = json.loads(text)

        return read

    @property
    def error(self) -> FungiError | None:
        if "result" in self.document:
            return None
        if "error" in self.document:
            return error_from_json(self.document["error"], self.process.returncode)
        if self.is_stopping and self.process.returncode == -signal.SIGTERM:  # before it could hear
            return stopped()
        return FungiError(
            f"{self.part} has ended without a result",
            found=f"exit code {self.process.returncode}",
            hint="if memory was full, fewer workers or a smaller --batch-size; then run the same "
            "command again: what was committed is kept",
        )


Lines = SimpleQueue[tuple[_Worker, str | None]]


def _start(work: DividedWork, place: Place, part: Slice, lines: Lines) -> _Worker:
    threads = str(max(1, int(allowed_cores() / place.neighbours)))
    process = subprocess.Popen(
        python_command("-c", RUN, *sys.argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"OMP_NUM_THREADS": threads} | python_environment(),
        start_new_session=True,  # ^C reaches the parent alone, which hands it on once
    )
    assert process.stdin is not None
    worker = _Worker(part, process)
    worker.listen(lines)
    spec = {"work": asdict(work), "place": asdict(place), "part": asdict(part)}
    with process.stdin as stdin:
        json.dump(spec, stdin)
    return worker


def _follow(workers: list[_Worker], lines: Lines, context: Context) -> None:
    """Show what the workers tell until all of them have ended."""
    shown: tuple[str, int, int] = ("", 0, 0)
    open_streams = len(workers)
    while open_streams:
        if context.stop():
            for worker in workers:
                worker.stop()
        try:
            worker, line = lines.get(timeout=POLL_SECONDS)
        except Empty:
            continue
        if line is None:
            open_streams -= 1
            continue
        _take_in(worker, line, context.reporter)
        shown = _show(workers, shown, context.reporter)
    context.reporter.end()


def _take_in(worker: _Worker, line: str, reporter: Reporter) -> None:
    who = f"worker {worker.part.index}"
    try:
        event = json.loads(line)
        if not isinstance(event, dict):
            raise ValueError
    except ValueError:
        reporter.notice(f"{who}: {line}")
        return
    if "notice" in event:
        reporter.notice(f"{who}: {event['notice']}")
    elif "begin" in event:
        worker.what, worker.total, worker.done = event["begin"], event["total"], event["done"]
    elif "advance" in event:
        worker.done += event["advance"]


def _show(
    workers: list[_Worker], shown: tuple[str, int, int], reporter: Reporter
) -> tuple[str, int, int]:
    """Move the one display on: that of the stage which most of the work is in is the longest."""
    busy = [worker for worker in workers if worker.what]
    if not busy:
        return shown
    what = max(busy, key=lambda worker: worker.total).what
    same = [worker for worker in busy if worker.what == what]
    total, done = sum(worker.total for worker in same), sum(worker.done for worker in same)
    if (what, total) != shown[:2]:
        reporter.begin(what, total, done)
    elif done > shown[2]:
        reporter.advance(done - shown[2])
    return what, total, done


def raise_worst(errors: list[FungiError], reporter: Reporter) -> None:
    """Raise the worst of some errors, by class, and tell the others; nothing of none."""
    if not errors:
        return
    worst = min(errors, key=lambda error: SEVERITY.index(error.exit_code))
    for error in errors:
        if error is not worst and str(error) != str(worst):
            reporter.notice(f"another worker: {error.what}")
    raise worst
