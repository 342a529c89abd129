"""Test runs in forked processes, each with one module's source replaced as it is imported."""

from __future__ import annotations

import enum
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import FrameType
from typing import Any

LIBRARIES = (
    "beartype faiss google_crc32c hypothesis jaxtyping numcodecs numpy onnx PIL.Image pyarrow "
    "pyarrow.parquet pydantic pytest rich safetensors.torch scipy.special scipy.stats "
    "sklearn.cluster sklearn.linear_model sklearn.metrics sklearn.neighbors sklearn.decomposition "
    "timm timm.data torch torch.func torchvision.transforms typer.testing zarr"
)
MEMORY = 16 << 30  # of a mutant's process: one that asks for more fails, and nothing else does
NO_TESTS = 5  # pytest's exit code where none was run, which sees nothing
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "--tb=no", "-p", "no:unraisableexception")


class Answer(enum.Enum):
    """How a test run ended."""

    PASSED = 0
    FAILED = 1
    HUNG = 2


class Server:
    """Forks test runs from this process, which has the libraries loaded and none of ours.

    Args:
        root: the checkout, which is only read.
        scratch: an empty folder for what tests and compilers write.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        os.environ |= {
            "OMP_NUM_THREADS": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TMPDIR": str(scratch),
        }
        self._scratch, self._runs = scratch, 0
        self.log = scratch / "log"  # what the last run said
        os.chdir(root)
        sys.path.insert(0, str(root))
        for name in LIBRARIES.split():
            importlib.import_module(name)
        _quick_hypothesis()
        sys.pycache_prefix, sys.dont_write_bytecode = str(scratch / "bytecode"), False
        gc.collect()
        gc.freeze()  # what is loaded by now is no run's garbage

    def trace(self, path: Path, files: Sequence[str]) -> dict[str, Any] | None:
        """Run tests without a fault; returns their seconds and who came past each line of a module.

        None where they fail.
        """
        file = self._scratch / "trace.json"

        def job() -> int:
            watch = Watch(str(path))
            code = _pytest(files, self._temporary(), watch)
            file.write_text(json.dumps(watch.seen()))
            return code

        return json.loads(file.read_text()) if self._fork(job, 3600) is Answer.PASSED else None

    def run(self, path: Path, source: str, tests: Sequence[str], limit: float) -> Answer:
        """Run tests with a module's source replaced, for so many seconds at most."""

        def job() -> int:
            _replace(path, source)
            files = dict.fromkeys(test.partition("::")[0] for test in tests)
            return _pytest(list(files), self._temporary(), Only(tests))

        return self._fork(job, limit)

    def _temporary(self) -> Path:
        return self._scratch / f"run-{self._runs}"

    def _fork(self, job: Callable[[], int], limit: float) -> Answer:
        self._runs += 1
        if (child := os.fork()) == 0:
            _child(job, limit, self.log)
        try:
            return _wait(child, limit)
        finally:
            with suppress(ProcessLookupError):  # what it started, and itself if it hangs
                os.killpg(child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)
            shutil.rmtree(self._temporary(), ignore_errors=True)


def _child(job: Callable[[], int], limit: float, log: Path) -> None:
    """Do a job and end, whatever happens: nothing of the parent's code may run on."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        seconds = int(limit) + 60  # of work: the end of one that hangs and whose parent was killed
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = job()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, limit: float) -> Answer:
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            is_blind = os.waitstatus_to_exitcode(status) == NO_TESTS
            return Answer.PASSED if status == 0 or is_blind else Answer.FAILED
        time.sleep(0.005)
    return Answer.HUNG


def _pytest(files: Sequence[str], temporary: Path, plugin: object) -> int:
    import pytest  # late: it is asked for with the other libraries

    return int(pytest.main([*OPTIONS, f"--basetemp={temporary}", *files], plugins=[plugin]))


def _quick_hypothesis() -> None:
    """The same examples each time, and a failure is not made smaller."""
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutate", database=None, derandomize=True, phases=phases)
    settings.load_profile("mutate")


def _replace(path: Path, source: str) -> None:
    """Give another source for a file to whatever imports it; no compiled code is read or kept.

    Works for the loaders of others too, which read through the same two methods.
    """
    stats, data = SourceFileLoader.path_stats, SourceFileLoader.get_data

    def path_stats(loader: SourceFileLoader, place: str) -> Any:
        if place == str(path):
            raise OSError("no compiled code of this one")
        return stats(loader, place)

    def get_data(loader: SourceFileLoader, place: str) -> bytes:
        return source.encode() if place == str(path) else data(loader, place)

    SourceFileLoader.path_stats, SourceFileLoader.get_data = path_stats, get_data


class Only:
    """A plugin of pytest that runs some tests of the files given."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._tests = set(tests)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave the others out."""
        items[:] = [item for item in items if item.nodeid in self._tests]


class Watch:
    """A plugin of pytest that notes which tests come past which lines of a file.

    What a fixture runs counts for all tests of its file: one of them sees it first, others too.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._now = "import"
        self._lines: dict[str, set[int]] = {}
        self._seconds: dict[str, float] = {}
        threading.settrace(self._enter)
        sys.settrace(self._enter)

    def _enter(self, frame: FrameType, event: str, value: object) -> Any:
        return self._line if frame.f_code.co_filename == self._path else None

    def _line(self, frame: FrameType, event: str, value: object) -> Any:
        self._lines.setdefault(self._now, set()).add(frame.f_lineno)
        return self._line

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up the seconds of a test."""
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration

    def pytest_runtest_setup(self, item: Any) -> None:
        """Fixtures are of the file."""
        self._now = item.nodeid.partition("::")[0]
        sys.settrace(self._enter)

    def pytest_runtest_call(self, item: Any) -> None:
        """What follows is of the test."""
        self._now = item.nodeid
        sys.settrace(self._enter)

    def seen(self) -> dict[str, Any]:
        """Return seconds by test, and tests by line."""
        sys.settrace(None)
        tests_of_line: dict[int, list[str]] = {}
        for test in self._seconds:
            own = (
                self._lines.get(name, set()) for name in ("import", test.partition("::")[0], test)
            )
            for line in set().union(*own):
                tests_of_line.setdefault(line, []).append(test)
        return {"seconds": self._seconds, "tests_of_line": tests_of_line}
