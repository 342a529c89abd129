"""The two streams, either of which may be closed, full, or left by whoever was reading it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable
from tempfile import SpooledTemporaryFile
from typing import Any, TextIO

from fungistore.errors import FungiError

HELD_BYTES = 1 << 26  # of a result that is not whole yet; more of it goes to the disk
LONGEST_SHOWN = 8192  # characters of one line; no path is longer


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
    """Print a line on stderr; where nobody can be told, the work goes on untold."""
    if sys.stderr is None:
        return
    try:
        _write(sys.stderr, printable(text) + "\n")
    except OSError:
        give_up(sys.stderr)


def result(text: str) -> None:
    """Print a line of a result on stdout."""
    write(printable(text) + "\n")


def result_json(document: dict[str, Any]) -> None:
    """Print the one JSON object of `--json` on stdout; what is no number in JSON is null."""
    write(json.dumps(_finite(document), indent=1) + "\n")


def result_json_list(document: dict[str, Any], key: str, items: Iterable[dict[str, Any]]) -> None:
    """Print one JSON object whose last field is a list of any length, an item at a time.

    Nothing is printed before the last item is there: one that cannot be made ends in the object
    of its error alone.
    """
    begun = json.dumps(_finite(document), indent=1).removesuffix("\n}")
    with SpooledTemporaryFile(HELD_BYTES, "w+", encoding="utf-8") as held:
        for number, item in enumerate(items):
            held.write(("," if number else "") + "\n  " + json.dumps(_finite(item)))
        held.seek(0)
        write(f"{begun},\n {json.dumps(key)}: [")
        while piece := held.read(1 << 16):
            write(piece)
    write("\n ]\n}\n")


def write(text: str) -> None:
    """Write a part of a result on stdout.

    A reader that has gone, as `head` does, has what it wanted: the command ends as it would have.

    Raises:
        FungiError: stdout is closed, or its disk full.
    """
    if sys.stdout is None:
        raise FungiError("the result cannot be written: standard output is closed")
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        give_up(sys.stdout)
    except OSError as error:
        raise unwritten(sys.stdout, error) from error


def unwritten(stream: TextIO, error: OSError) -> FungiError:
    """Give a stream up, and return what to say of it."""
    give_up(stream)
    return FungiError(
        "the result cannot be written",
        where="standard output",
        found=error.strerror,
        hint="make room, or write elsewhere; what the command has stored is kept",
    )


def give_up(stream: TextIO) -> None:
    """Send what follows nowhere: Python's own flush at the end would fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
