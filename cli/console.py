"""What every command shares: two streams, progress, signals, and errors with exit codes."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from fungistore.errors import DEBUG, FungiError, MismatchError, StoppedError, explained
from fungistore.machine.context import Context
from fungistore.quantities import duration
from fungistore.remote.waiting import WAITING
from fungistore.text import lines_of

from .output import note, printable, result_json
from .shell import command_line
from .starting import announced_imports

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

P = ParamSpec("P")
R = TypeVar("R")

PLAIN_LINE_SECONDS = 30
STDERR = 2  # its descriptor: sys.stderr is the bar's own while it is shown
CLEAN_LINE = b"\r\x1b[2K\x1b[?25h"  # to its beginning, erased, with the cursor shown
SKIPPED_INPUTS = 3
INTERRUPTED = 130
INTERRUPTION = "interrupted; committed work is kept, the same command continues it"


def next_step(*command: str) -> None:
    """Name the command that usually follows."""
    note(f"next: {command_line(command)}")


def explains_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn library errors into messages and exit codes; tracebacks only under --debug."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(tell(error, as_json=bool(kwargs.get("as_json")))) from None

    return run


def tell(error: Exception | KeyboardInterrupt, *, as_json: bool) -> int:
    """Print an error, on stdout too where JSON was asked for; returns the exit code."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    is_interrupt = isinstance(error, KeyboardInterrupt)
    if isinstance(error, KeyboardInterrupt):
        error = StoppedError(INTERRUPTION)
    known = explained(error)
    code = known.exit_code
    if is_interrupt or (isinstance(known, StoppedError) and _received == signal.SIGINT):
        code = INTERRUPTED
    first, *lines = _explain(known)
    for line in (first if isinstance(known, StoppedError) else f"error: {first}", *lines):
        note(line)
    if as_json:
        with suppress(FungiError):  # stdout is what failed
            result_json({"error": known.to_json(), "exit_code": code})
    return code


def _explain(error: FungiError) -> Iterator[str]:
    """Yield the lines of an error; line breaks count where this program made them."""
    yield error.what
    for word, value in error.details().items():
        first, *lines = [str(value)]
        if word == "found" and isinstance(error, MismatchError):  # a line a field, values quoted
            first, *lines = first.split("\n")
        elif word == "found" and isinstance(value, Exception):  # of a library, over several lines
            first = "; ".join(filter(None, map(str.strip, first.splitlines())))
        yield f"  {word}: {first}"
        yield from (f"    {line.strip()}" for line in lines)


_received: int | None = None  # the signal that asked this process to stop, for its exit code


@contextmanager
def stop_on_signals(before_death: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM came; a second signal stops at once."""
    global _received
    _received = None
    WAITING.go_on()

    def handle(number: int, frame: FrameType | None) -> None:
        global _received
        if _received is not None:
            before_death()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        _received = number
        WAITING.stop()  # for a server that stays silent there may be no safe point for minutes
        note("stopping at the next safe point; once more to stop at once")

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, handle) for kind in kinds]
    try:
        yield lambda: _received is not None
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """Let ^C end what waits for a server, in whatever thread, of a command that keeps nothing."""
    WAITING.go_on()

    def handle(number: int, frame: FrameType | None) -> None:
        WAITING.stop(0)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def running() -> Iterator[Context]:
    """Yield what a stage is given: the console to speak to, and signals that stop it."""
    reporter = ConsoleReporter()
    with stop_on_signals(reporter.give_back_terminal) as stop:
        try:
            with announced_imports():
                yield Context(reporter, stop)
        finally:
            reporter.end()


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, with the lines of standard input in the place of "-"."""
    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        yield from map(os.fsdecode, filter(None, lines_of(sys.stdin.buffer)))


class ConsoleReporter:
    """Shows a stage on stderr: a progress bar on a terminal, a line every 30 s elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._total = self._done = self._start = 0
        self._began = self._spoke = 0.0

    def notice(self, text: str) -> None:
        """Print a line."""
        if self._bar is not None:
            self._bar.console.print(
                printable(text), markup=False, highlight=False, emoji=False, soft_wrap=True
            )
        else:
            note(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Start the display."""
        self.end()
        self._what, self._total, self._done, self._start = what, total, done, done
        self._began = self._spoke = time.monotonic()
        if sys.stderr.isatty() and total > done:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")

    def advance(self, count: int) -> None:
        """Move on."""
        self._done += count
        now = time.monotonic()
        rate = (self._done - self._start) / max(now - self._began, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, rate=f"{rate:.1f}/s")
        elif now - self._spoke >= PLAIN_LINE_SECONDS:
            self._spoke = now
            left = (self._total - self._done) / max(rate, 1e-9)
            note(f"{self._what}: {self._done}/{self._total}, {rate:.1f}/s, {duration(left)} left")

    def end(self) -> None:
        """Remove the display."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def give_back_terminal(self) -> None:
        """Leave no half bar and no hidden cursor; in a signal handler, waiting for no lock."""
        if self._bar is not None:
            os.write(STDERR, CLEAN_LINE)
