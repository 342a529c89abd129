"""How a worker process and its parent talk: JSON lines on stderr, one result on stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any

from fungistore.engines.engine import DividedWork, Place
from fungistore.errors import DEBUG, error_to_wire, explained
from fungistore.machine.context import Context
from fungistore.store.locks import Slice

RUN = "from fungistore.engines.events import main; main()"


class EventReporter:
    """Tells a parent process how a worker gets on: one JSON line an event, on stderr."""

    def notice(self, text: str) -> None:
        """Send a line to be shown."""
        _send({"notice": text})

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Send the start of a display."""
        _send({"begin": what, "total": total, "done": done})

    def advance(self, count: int) -> None:
        """Send a step."""
        _send({"advance": count})

    def end(self) -> None:
        """Send nothing: the next start, or the end of the process, says it."""


def _send(event: dict[str, Any]) -> None:
    sys.stderr.write(json.dumps(event) + "\n")
    sys.stderr.flush()


def main() -> None:
    """Be a worker process: work and a slice come in on stdin; its result, or error, goes out.

    What libraries print goes to stderr. SIGTERM asks for a stop; a second one ends the process at
    once.
    """
    asked = False
    sys.argv = sys.argv[1:] or sys.argv  # the parent's: claims tell which command has them
    result = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked = True

    signal.signal(signal.SIGTERM, handle)
    spec = json.load(sys.stdin)
    context = Context(EventReporter(), lambda: asked)
    code, document = 0, {}
    try:
        run = DividedWork(**spec["work"]).open(Place(**spec["place"]), context)
        document = {"result": run(Slice(**spec["part"]))}
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        code, document = explained(error).exit_code, {"error": error_to_wire(error)}
    with result:
        json.dump(document, result)
    sys.exit(code)
