"""An engine that does to divided work what clusters do: odd orders, repeats, broken halves."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from fungistore.engines.engine import DividedWork, Place
from fungistore.errors import StoppedError
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.store.locks import Slice


@dataclass(frozen=True)
class OddTurns:
    """Workers of one process, one after the other.

    The last slice comes first; the first is begun by a worker that is lost after some steps, and
    begun again by another; one runs twice. What travels is JSON, there and back.
    """

    slices: int = 3
    lost_after: int = 2

    def run(self, work: DividedWork, context: Context) -> list[Config]:
        sent = DividedWork(**json.loads(json.dumps(asdict(work))))
        self._lose(sent, context)
        order = [*reversed(range(self.slices)), 0]
        opened = [sent.open(Place("cpu", 2), context) for _ in range(2)]
        results = [opened[turn % 2](Slice(index, self.slices)) for turn, index in enumerate(order)]
        return json.loads(json.dumps(results))

    def _lose(self, work: DividedWork, context: Context) -> None:
        steps = count()
        lost = Context(context.reporter, lambda: next(steps) >= self.lost_after)
        with suppress(StoppedError):
            work.open(Place("cpu", 2), lost)(Slice(0, self.slices))


def files_of(root: Path, *but: str) -> dict[str, bytes]:
    """Return a directory's files by their path, without those of locks and of some folders."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in found}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if name.split("/")[0] not in (".locks", *but)
    }
