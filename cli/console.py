"""What every command shares: two streams, progress, signals, and errors with exit codes."""

from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from fungistore.errors import DEBUG, FungiError, MismatchError, StoppedError, explained
from fungistore.machine.context import Context
from fungistore.quantities import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

P = ParamSpec("P")
R = TypeVar("R")

PLAIN_LINE_SECONDS = 30
LONGEST_SHOWN = 8192  # characters of one line; no path is longer
SKIPPED_INPUTS = 3
INTERRUPTED = 130


def printable(text: str) -> str:
    """Return one line that cannot steer a terminal: all that is not printable is escaped.

    Line breaks and marks that turn the direction of writing are, and so are odd bytes. A text
    that would fill screens is cut; --json has it whole.
    """
    if len(text) > LONGEST_SHOWN:
        text = f"{text[:LONGEST_SHOWN]}... ({len(text)} characters)"
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return safe.encode("utf-8", "backslashreplace").decode("utf-8")


def note(text: str) -> None:
    """Print a line on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def result(text: str) -> None:
    """Print a line of a result on stdout."""
    print(printable(text), flush=True)


def result_json(document: dict[str, Any]) -> None:
    """Print the one JSON object of `--json` on stdout."""
    print(json.dumps(document, indent=1), flush=True)


def next_step(*command: str) -> None:
    """Name the command that usually follows."""
    note(f"next: {shlex.join(command)}")


def explains_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn library errors into messages and exit codes; tracebacks only under --debug."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        as_json = bool(kwargs.get("as_json"))
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            note("interrupted; committed work is kept, the same command continues it")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of a shell pipeline has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except typer.Exit:
            raise
        except Exception as error:
            _fail(explained(error), as_json=as_json)

    return run


def _fail(error: FungiError, *, as_json: bool) -> NoReturn:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    code = error.exit_code
    if isinstance(error, StoppedError) and _received == signal.SIGINT:
        code = INTERRUPTED
    first, *lines = _explain(error)
    for line in (first if isinstance(error, StoppedError) else f"error: {first}", *lines):
        note(line)
    if as_json:
        result_json({"error": error.to_json(), "exit_code": code})
    raise typer.Exit(code)


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
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM came; a second signal stops at once."""
    global _received
    _received = None

    def handle(number: int, frame: FrameType | None) -> None:
        global _received
        if _received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        _received = number
        note("stopping at the next safe point; once more to stop at once")

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, handle) for kind in kinds]
    try:
        yield lambda: _received is not None
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


@contextmanager
def running() -> Iterator[Context]:
    """Yield what a stage is given: the console to speak to, and signals that stop it."""
    with stop_on_signals() as stop:
        yield Context(ConsoleReporter(), stop)


def lines(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, with the lines of standard input in the place of "-"."""
    for argument in arguments:
        if argument != "-":
            yield argument
            continue
        for line in sys.stdin.buffer:
            if text := os.fsdecode(line.rstrip(b"\r\n")):
                yield text


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
