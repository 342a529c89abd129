"""Divided work that gives numbered pieces: made by whoever, kept in the store, read in order.

A stage says what piece n is. One process makes one after the other and keeps none. Workers leave
each in a folder of the store (`fungistore.store.scratch`), and the stage reads them in order; so
neither who made a piece, nor how often, nor when, changes what comes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass
from pkgutil import resolve_name

from fungistore.engines.engine import DividedWork, Engine, Local, Place, RunSlice
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.context import SILENT, Context
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.scratch import Scratch, Tensors
from fungistore.store.store import Store

ALONE = Local()
DRIVEN, WORKED = "driven", "worked"  # what the claims of a stage, and of its workers, are called

Make = Callable[[int], Tensors]
OpenPieces = Callable[[Store, Config, Scratch, Place, Context], Make]


@dataclass(frozen=True)
class Pieces:
    """Work in pieces on a store.

    Attributes:
        name: of the scratch folder: what is equal for two runs whose pieces are the same.
        count: how many pieces.
        what: they are, for the display.
        function: "module:name" of an `OpenPieces`: it gets the store, the arguments, and the folder
            with what the stage has put there, and returns what makes a piece.
        arguments: of the function, ready for JSON.
    """

    name: str
    count: int
    what: str
    function: str
    arguments: Config

    def scratch(self, store: Store) -> Scratch:
        """Return the folder of the pieces."""
        return Scratch.of(store.backend, self.name)

    def made(
        self,
        engine: Engine,
        store: Store,
        context: Context,
        given: Iterable[tuple[str, Tensors]] = (),
    ) -> Generator[Tensors]:
        """Let an engine make those that are not there, and yield all in order.

        They are left for the caller to remove, who may still have to keep what comes of them. Until
        the last of them was asked for, or the generator is closed, nobody else may drive this run.

        Args:
            engine: who makes them.
            store: it.
            context: its reporter is told what happens, its stop asked between pieces.
            given: what workers need beside the arguments, by name in the folder.

        Raises:
            StoppedError: `context` asked for it; what is made is kept.
            FungiError: a worker failed.
        """
        place = place_of(store)
        arguments = {"store": place, "keep_removed": store.keep_removed, "pieces": asdict(self)}
        function = f"{__name__}:{open_pieces.__name__}"
        work = DividedWork(function, arguments, store=place, units=self.count)
        scratch = self.scratch(store)
        with store.writing(f"{DRIVEN}/{self.name}"):  # so that nobody sweeps meanwhile
            for name, tensors in given:
                scratch.write(name, tensors)
            engine.run(work, context)
            for number in range(self.count):
                context.stop_if_asked()
                yield scratch.read(piece_name(number))


def open_pieces(arguments: Config, place: Place, context: Context) -> RunSlice:
    """Get ready for pieces, in a worker of an engine."""
    store = Store.open(arguments["store"], keep_removed=arguments["keep_removed"])
    pieces = Pieces(**arguments["pieces"])
    scratch = pieces.scratch(store)
    opening: OpenPieces = resolve_name(pieces.function)
    make = opening(store, pieces.arguments, scratch, place, Context(SILENT, context.stop))

    def run(part: Slice) -> Config:
        mine, made = [number for number in range(pieces.count) if number in part], 0
        context.reporter.begin(pieces.what, len(mine))
        with store.writing(f"{WORKED}/{pieces.name}", part=part):
            for number in mine:
                context.stop_if_asked()
                if not scratch.holds(piece_name(number)):
                    scratch.write(piece_name(number), make(number))
                    made += 1
                context.reporter.advance(1)
        context.reporter.end()
        return {"made": made}

    return run


def is_alone(engine: Engine) -> bool:
    """Whether this process does everything, and so leaves nothing for others.

    Raises:
        UsageError: it does a part: nobody would put the parts together.
    """
    if isinstance(engine, Local) and engine.part != WHOLE:
        raise UsageError(
            "processes that are started by hand cannot divide this stage: none puts their parts "
            "together",
            where="--worker-id and --num-workers",
            expected="--processes N, --gpus LIST, or an --engine that has workers",
            found=engine.part,
            hint="leave them out: one process does everything, or starts its own workers",
        )
    return isinstance(engine, Local)


def place_of(store: Store) -> str:
    """Return a store's place for workers, wherever they run."""
    return str(store.backend.directory() or store.where)


def piece_name(number: int) -> str:
    """Return the name of a piece."""
    return f"{number:08d}"
