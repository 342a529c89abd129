"""Several extracting processes: which of them this one is, and starting some on one machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from fungistore.errors import StoppedError, UsageError
from fungistore.machine.children import python_command, python_environment
from fungistore.machine.resources import allowed_cores

from .console import INTERRUPTED, SKIPPED_INPUTS, ConsoleReporter, note, printable

# (own number, how many there are), in the order in which they are looked for
VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", ("SLURM_ARRAY_TASK_COUNT",)),
    ("SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")),
    ("RANK", ("WORLD_SIZE",)),
)
SEVERITY = (5, 4, 2, 1, INTERRUPTED, StoppedError.exit_code, SKIPPED_INPUTS, 0)  # worst first
IMAGES = "images"


def choose_worker(
    worker: int | None, workers: int | None, environment: Mapping[str, str]
) -> tuple[int, int]:
    """Return (worker, workers) from flags, or from a scheduler's variables, said on stderr.

    Raises:
        UsageError: half of it is missing, or the numbers do not fit.
    """
    found: tuple[int, int, str] | None = None
    if worker is None and workers != 1:
        found = _from_environment(environment)
    if worker is None and workers is None:
        if found is None or found[1] == 1:
            return 0, 1
        note(
            f"worker {found[0]} of {found[1]}, as {found[2]} says; --num-workers 1 makes this "
            "process do everything"
        )
        return found[0], found[1]
    count = workers
    if count is None:
        raise UsageError("--worker-id needs the number of workers", hint="add --num-workers N")
    index = worker if worker is not None else 0 if count == 1 else found[0] if found else None
    if index is None or not 0 <= index < count:
        raise UsageError(
            "not a worker's number",
            where="--worker-id",
            expected=f"0 to {count - 1}" if count > 0 else "--num-workers of 1 or more",
            found="nothing" if index is None else index,
            hint="number the workers from 0",
        )
    return index, count


def _from_environment(environment: Mapping[str, str]) -> tuple[int, int, str] | None:
    for name, counts in VARIABLES:
        count = next((key for key in counts if key in environment), None)
        if name not in environment or count is None:
            continue
        try:
            index, total = int(environment[name]), int(environment[count])
            if name == "SLURM_ARRAY_TASK_ID":  # --array=1-8, or 0-14:2
                index -= int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
                index, rest = divmod(index, int(environment.get("SLURM_ARRAY_TASK_STEP", 1)))
            else:
                rest = 0
        except ValueError:
            continue
        if rest or not 0 <= index < total:
            raise UsageError(
                "the scheduler's numbers do not tell which worker this is",
                where=f"{name} and {count}",
                found=f"{environment[name]} and {environment[count]}",
                hint="give --worker-id and --num-workers",
            )
        return index, total, f"{name}={environment[name]} of {count}={environment[count]}"
    return None


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


@dataclass
class _Child:
    """One worker process, and what it has told."""

    number: int
    process: subprocess.Popen[str]
    what: str = ""
    total: int = 0
    done: int = 0
    document: dict[str, Any] = field(default_factory=dict)
    collector: threading.Thread | None = None


Lines = SimpleQueue[tuple[_Child, str | None]]


def run_workers(
    arguments: Sequence[str],
    config: Mapping[str, Any],
    devices: Sequence[str],
    stop: Callable[[], bool],
    reporter: ConsoleReporter,
) -> tuple[dict[str, Any], int]:
    """Run one `fungi extract` a device, show them as one, and return (result, exit code).

    A worker that fails leaves the others going; a request to stop is handed on to all of them.

    Args:
        arguments: source, store and flags that are no settings.
        config: the settings, as a --config file has them.
        devices: of the workers, one each.
        stop: asked several times a second.
        reporter: shows the workers' progress together.
    """
    from fungistore.extraction.loader import default_workers

    lines: Lines = SimpleQueue()
    children: list[_Child] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, device in enumerate(devices):
                path = Path(folder, f"{number}.json")
                kind = device.partition(":")[0]
                threads = config.get("workers") or default_workers(kind, len(devices))
                path.write_text(json.dumps({**config, "device": device, "workers": threads}))
                own = ["--worker-id", str(number), "--num-workers", str(len(devices))]
                command = python_command("-m", "fungi_cli", "extract", *arguments)
                command += ["--config", str(path), *own, "--events", "--json"]
                children.append(_start(number, command, len(devices), lines))
            _follow(children, lines, stop, reporter)
        finally:
            for child in children:
                if child.process.poll() is None:
                    child.process.terminate()
    for child in children:
        child.process.wait()
        if child.collector is not None:
            child.collector.join()
    codes = [code if code in SEVERITY else 1 for code in (c.process.returncode for c in children)]
    return _combine(children), min(codes, key=SEVERITY.index)


def _start(number: int, command: list[str], count: int, lines: Lines) -> _Child:
    threads = str(max(1, int(allowed_cores() / count)))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"OMP_NUM_THREADS": threads} | python_environment(),
        start_new_session=True,  # ^C reaches the parent alone, which hands it on once
    )
    child = _Child(number, process)
    assert process.stdout is not None
    assert process.stderr is not None
    threading.Thread(target=_pump, args=(child, process.stderr, lines), daemon=True).start()
    child.collector = threading.Thread(target=_collect, args=(child, process.stdout), daemon=True)
    child.collector.start()
    return child


def _pump(child: _Child, stream: IO[str], lines: Lines) -> None:
    for line in stream:
        lines.put((child, line.rstrip("\n")))
    lines.put((child, None))


def _collect(child: _Child, stream: IO[str]) -> None:
    text = stream.read()
    if text.strip():
        child.document = json.loads(text)


def _follow(
    children: list[_Child],
    lines: Lines,
    stop: Callable[[], bool],
    reporter: ConsoleReporter,
) -> None:
    """Show what the workers tell until all of them have ended."""
    shown: tuple[str, int, int] = ("", 0, 0)
    is_stopping = False
    open_streams = len(children)
    while open_streams:
        if stop() and not is_stopping:
            is_stopping = True
            for child in children:
                child.process.send_signal(signal.SIGTERM)
        try:
            child, line = lines.get(timeout=0.2)
        except Empty:
            continue
        if line is None:
            open_streams -= 1
            continue
        _take_in(child, line, reporter)
        shown = _show(children, shown, reporter)
    reporter.end()


def _take_in(child: _Child, line: str, reporter: ConsoleReporter) -> None:
    try:
        event = json.loads(line)
        if not isinstance(event, dict):
            raise ValueError
    except ValueError:
        reporter.notice(f"worker {child.number}: {printable(line)}")
        return
    if "notice" in event:
        reporter.notice(f"worker {child.number}: {event['notice']}")
    elif "begin" in event:
        child.what, child.total, child.done = event["begin"], event["total"], event["done"]
    elif "advance" in event:
        child.done += event["advance"]


def _show(
    children: list[_Child], shown: tuple[str, int, int], reporter: ConsoleReporter
) -> tuple[str, int, int]:
    """Move the one display on: of images where a worker is at them, else of what comes before."""
    busy = [c for c in children if c.what == IMAGES] or [c for c in children if c.what]
    if not busy:
        return shown
    what = busy[0].what
    same = [child for child in busy if child.what == what]
    total, done = sum(child.total for child in same), sum(child.done for child in same)
    if (what, total) != shown[:2]:
        reporter.begin(what, total, done)
    elif done > shown[2]:
        reporter.advance(done - shown[2])
    return what, total, done


def _combine(children: list[_Child]) -> dict[str, Any]:
    """Put the workers' results together; the store's state is what the last of them saw."""
    done = [child.document for child in children if "units" in child.document]
    if not done:
        return {"workers": [child.document for child in children]}
    last = max(done, key=lambda document: int(document["units"]["done"]))
    units = last["units"] | {"computed": sum(d["units"]["computed"] for d in done)}
    sums = {
        key: sum(document[key] for document in done)
        for key in ("images_computed", "images_per_second", "redone")
    }
    combined = {key: value for key, value in last.items() if key != "worker"}
    return combined | sums | {"units": units, "workers": [c.document for c in children]}
