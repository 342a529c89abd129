"""What an engine is: it divides work on a store's units among workers, and decides nothing else.

Units are independent, setups are frozen before the first one, and a unit's record is the truth
about it. So an engine only has to see to it that every slice is run by somebody; a slice that is
run twice finds its units done. The store at the end is that of one process, bit for bit.

A new engine is one file with one class like those here and a function that makes one of what the
flags say (`fungistore.engines.choose`), an entry point of the group "fungistore.engines".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Protocol, runtime_checkable

from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.store.locks import WHOLE, Slice


@dataclass(frozen=True)
class Place:
    """Where a worker works.

    Attributes:
        device: to compute on, None for the one that the work's own options name.
        neighbours: workers that share the machine's cores, this one among them.
        node: name of the machine, where there are several; a result may tell it.
    """

    device: str | None = None
    neighbours: int = 1
    node: str = ""


RunSlice = Callable[[Slice], Config]
OpenWork = Callable[[Config, Place, Context], RunSlice]


@dataclass(frozen=True)
class DividedWork:
    """Work on the units of a store that any worker, wherever it is, can open and do a slice of.

    Attributes:
        function: "module:name" of an `OpenWork`: it gets ready (loads a model, freezes a setup)
            and returns what runs one slice and can be called again for others. What that returns
            is ready for JSON.
        arguments: of the function, ready for JSON.
        store: place of the store that is worked on, if any: an engine of several machines sees to
            it that all of them see the same one.
        source: path of what is read beside it, if any; likewise.
        units: how many there are, where that is known: more slices than that are of no use. A
            result may tell it later, as "units_total".
    """

    function: str
    arguments: Config
    store: str | None = None
    source: str | None = None
    units: int | None = None

    def open(self, place: Place, context: Context) -> RunSlice:
        """Get ready for slices of the work."""
        opening: OpenWork = resolve_name(self.function)
        return opening(self.arguments, place, context)


@runtime_checkable
class Engine(Protocol):
    """Runs divided work; how many workers there are, and where, is its own matter."""

    def run(self, work: DividedWork, context: Context) -> list[Config]:
        """Run all slices, or those that are this process's, and return what each gave.

        Raises:
            StoppedError: `context` asked for it; what is committed is kept.
            FungiError: a worker failed; the others went on to their ends.

        A slice may be run again, also while a part of it is done: whoever ran it has died. So what
        `work` commits, it commits by units, and BusyError (`fungistore.store.locks`) is what it
        raises where the claim of somebody who is gone has not run out.
        """


@dataclass(frozen=True)
class Local:
    """The engine that is this process alone.

    Attributes:
        part: its slice of the units; the others are left to processes that are started by hand or
            by a scheduler.
    """

    part: Slice = WHOLE

    def run(self, work: DividedWork, context: Context) -> list[Config]:
        """Run the slice here."""
        return [work.open(Place(), context)(self.part)]
