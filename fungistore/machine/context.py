"""What travels with every stage as one value: whom it tells, who may stop it, what times it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fungistore.errors import StoppedError
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.notebook import Ambient
from fungistore.report import Reporter, Silent

SILENT = Silent()
AMBIENT = Ambient()


def never() -> bool:
    """Ask for no stop."""
    return False


def stopped() -> StoppedError:
    """Return the error of a run that was asked to stop."""
    return StoppedError("stopped on request", hint="run the same command again to continue")


@dataclass(frozen=True)
class Context:
    """The surroundings of a run; they decide nothing about its result.

    Attributes:
        reporter: is told what happens; default: nobody in a script; in a notebook the cell's
            output. `Silent()` says nothing there either.
        stop: asked between steps, by several threads at once; True ends the run with StoppedError,
            keeping what is committed.
        watch: a `Clock` to measure the stages with.
    """

    reporter: Reporter = AMBIENT
    stop: Callable[[], bool] = never
    watch: Stopwatch = UNWATCHED

    def stop_if_asked(self) -> None:
        """Raise StoppedError if a signal, or a caller, has asked the run to stop."""
        if self.stop():
            raise stopped()


DEFAULT = Context()  # of public functions
QUIET = Context(SILENT)  # of what others call, whoever listens to these
