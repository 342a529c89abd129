"""Who reads and draws items beside the model: threads of this process, or processes of their own.

Threads copy nothing, and Pillow decodes and resizes outside Python's lock, so beside a model on
the CPU they are as fast as processes. What is left inside the lock, half a millisecond an image,
is more than a GPU has time for.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import IO, Any

import pyarrow.compute as pc

from fungistore.choices import DecodeIn
from fungistore.errors import FungiError, UsageError
from fungistore.extraction.drawing import Drawer, DrawnItem, draw_row
from fungistore.location import LIVE
from fungistore.machine.children import python_command, python_environment
from fungistore.store.samples import SampleTable

MANY_SAMPLES = 4096  # fewer are done before processes have started, which takes seconds
Row = Mapping[str, Any]
PIPE_BYTES = 1 << 20  # of Linux's default limit: an item or several
RUN = "from fungistore.extraction.decoders import main; main()"


class InThreads:
    """Draws in the thread that calls."""

    rows_at_once = 1

    def __init__(self, drawer: Drawer) -> None:
        self._drawer = drawer

    def draw(self, rows: Sequence[Row], features: frozenset[str]) -> list[DrawnItem]:
        """Return the drawn items of some rows; several threads may call at once."""
        return [draw_row(self._drawer, row, features) for row in rows]

    def close(self) -> None:
        """Do nothing."""


class InProcesses:
    """Draws in processes, one for each thread that calls.

    A process ends when its standard input does, so none outlives a parent that is killed; and
    being in a session of its own it gets no ^C.

    Args:
        drawer: what they draw with.
        count: how many to start.
    """

    rows_at_once = 8  # the way of rows there and back costs about as much as an item

    def __init__(self, drawer: Drawer, count: int) -> None:
        self._processes = [_start(drawer) for _ in range(count)]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def draw(self, rows: Sequence[Row], features: frozenset[str]) -> list[DrawnItem]:
        """Return the drawn items of some rows; several threads may call at once.

        Raises:
            FungiError: a process has ended.
        """
        process = self._idle.get()
        try:
            _send(process.stdin, (rows, features))
            items: list[DrawnItem] = _receive(process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            process.kill()
            raise FungiError(
                "a decoding process has ended",
                found=f"exit code {process.wait()}",
                hint="if memory was full, fewer --workers; or --decode-in threads",
            ) from error
        finally:
            self._idle.put(process)
        return items

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()


def choose_processes(asked: DecodeIn, device: str, samples: int) -> bool:
    """Whether processes decode: where it was asked for, or for a GPU and many samples."""
    return asked == "processes" or (asked == "auto" and device == "cuda" and samples > MANY_SAMPLES)


def decode_elsewhere(
    asked: DecodeIn, device: str, count: int, drawer: Drawer, samples: SampleTable
) -> bool:
    """Whether processes decode some of a table's samples; not where no other process can.

    Raises:
        UsageError: it was asked for, and none can.
    """
    if not choose_processes(asked, device, count):
        return False
    why = _why_here_alone(drawer, samples)
    if why and asked == "processes":
        raise UsageError(
            "the items can be decoded by this process alone",
            where="--decode-in processes",
            found=why,
            hint="--decode-in threads",
        )
    return why is None


def _why_here_alone(drawer: Drawer, samples: SampleTable) -> str | None:
    """Return why no other process can read and draw the samples; None where any can."""
    try:
        pickle.dumps(drawer, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # of a transform that is somebody's own
        return f"the transform cannot be sent to another process: {error}"
    for batch in samples.batches("uri"):
        if pc.any(pc.match_substring(batch["uri"], LIVE)).as_py():
            return "samples are of a dataset that this process alone has"
    return None


def open_decoders(drawer: Drawer, workers: int, *, in_processes: bool) -> InThreads | InProcesses:
    """Return decoders for as many threads as there are workers."""
    return InProcesses(drawer, workers) if in_processes else InThreads(drawer)


def _start(drawer: Drawer) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        python_command("-c", RUN),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pipesize=PIPE_BYTES,
        env=python_environment(),
        start_new_session=True,
    )
    _send(process.stdin, drawer)
    return process


def _send(stream: IO[bytes] | None, value: object) -> None:
    assert stream is not None
    pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _receive(stream: IO[bytes] | None) -> Any:
    assert stream is not None
    return pickle.load(stream)


def main() -> None:
    """Be a decoding process: a drawer, then rows, come in; drawn items go out."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not get between them
    try:
        drawer: Drawer = _receive(sys.stdin.buffer)
        while True:
            rows, features = _receive(sys.stdin.buffer)
            _send(answers, [draw_row(drawer, row, features) for row in rows])
    except (EOFError, BrokenPipeError):  # nobody is there any more
        os._exit(0)
