"""Whom a library call tells of its progress if nobody says it: a notebook's cell, else nobody."""

from __future__ import annotations

import sys
import time
from typing import Any

from fungistore.quantities import duration

REFRESH_SECONDS = 0.5  # between changes of the display, which a kernel sends one by one
LINES_KEPT = 20  # of what a cell has been told; older ones make room


class Ambient:
    """Shows notices and progress below the cell that runs, where an IPython kernel runs it.

    A cell has one display, whose text is replaced: no number of steps floods it, and nothing but
    IPython is needed. Everywhere else this says nothing.
    """

    def __init__(self) -> None:
        self._cell: tuple[Any, int] | None = None  # the kernel's, and its number
        self._handle: Any = None
        self._lines: list[str] = []
        self._what = ""
        self._total = self._done = self._start = 0
        self._began = self._shown = 0.0

    def notice(self, text: str) -> None:
        """Add a line."""
        if self._enter_cell():
            self._lines.append(text)
            self._show()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Start a line of progress."""
        self._what, self._total, self._done, self._start = what, total, done, done
        self._began = time.monotonic()
        if self._enter_cell() and total > done:
            self._show()

    def advance(self, count: int) -> None:
        """Move it on."""
        self._done += count
        is_due = time.monotonic() - self._shown >= REFRESH_SECONDS
        if self._what and is_due and self._enter_cell():
            self._show()

    def end(self) -> None:
        """Leave the line as it ended."""
        if self._what and self._done > self._start and self._enter_cell():
            self._lines.append(self._progress())
            self._what = ""
            self._show()
        self._what = ""

    def _enter_cell(self) -> bool:
        """Whether a notebook's cell runs; the first time in a cell, its display is new."""
        shell = _kernel_shell()
        if shell is None:
            return False
        cell = (shell, shell.execution_count)
        if self._cell != cell:
            self._cell, self._handle, self._lines = cell, None, []
        return True

    def _show(self) -> None:
        from IPython.display import display

        self._shown = time.monotonic()
        del self._lines[:-LINES_KEPT]
        lines = [*self._lines, *([self._progress()] if self._what else [])]
        shown = {"text/plain": "\n".join(lines)}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def _progress(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (self._done - self._start) / seconds
        line = f"{self._what}: {self._done}/{self._total}, {rate:.1f}/s"
        if rate > 0 and self._done < self._total:
            return f"{line}, {duration((self._total - self._done) / rate)} left"
        return line


def _kernel_shell() -> Any:
    """Return IPython's shell where a kernel runs it; None in scripts, and in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None
