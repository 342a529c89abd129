"""Stages divided among real processes: SIGTERM to the first, and a worker that is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine_world import files_of
from feature_world import clustered, make_store
from stage_world import FUNGI, assert_sound, environment, run

ROWS, DIM, UNIT = 16_384, 48, 64
FLAGS = ("--dim", "16", "--fit-split", "all", "--name", "p")
DIVIDED = ("--processes", "2")
PATIENCE = 120.0  # seconds, on a machine that has other things to do


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four groups to fit on and 256 units to transform, and its PCA of one process."""
    root = tmp_path_factory.mktemp("divided") / "s.fungi"
    vectors, labels = clustered(ROWS, 4, DIM)
    make_store(root, {"embeddings": vectors}, labels, unit_rows=UNIT)
    shutil.copytree(root, root.with_name("features.fungi"))
    run([*FUNGI, "pca", str(root), *FLAGS])
    return root


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole.with_name("features.fungi"), tmp_path / "s.fungi")


def begun(store: Path, said: Path, is_there: Callable[[], bool]) -> subprocess.Popen[bytes]:
    """Start a divided PCA, and wait until it is in the midst of something."""
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [*FUNGI, "pca", str(store), *FLAGS, *DIVIDED],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    end = time.monotonic() + PATIENCE
    while not is_there():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < end
        time.sleep(0.002)
    return process


def units_written(store: Path) -> int:
    return len(list(store.glob("commits/set/pca/p/*.json")))


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that a process has started."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in children for pid in path.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_signal_stops_all_workers_and_the_same_command_goes_on(
    whole: Path, store: Path, tmp_path: Path
) -> None:
    """SIGTERM to the first process ends all of them: exit 75, and nothing is lost."""
    said = tmp_path / "stderr"
    process = begun(store, said, lambda: units_written(store) > 3)
    workers = workers_of(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 75, said.read_text()
    assert "run the same command again" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert not any(map(is_running, workers))
    assert 3 < units_written(store) < ROWS // UNIT
    assert_sound(store)
    assert "resuming: " in run([*FUNGI, "pca", str(store), *FLAGS, *DIVIDED]).stderr
    assert files_of(store) == files_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fitting", "transforming"])
def test_a_worker_that_is_killed_costs_its_part(
    whole: Path, store: Path, tmp_path: Path, step: str
) -> None:
    """SIGKILL to one of them is said, exit 1; the other ends its part, the next run the rest."""
    said = tmp_path / "stderr"
    are_there: dict[str, Callable[[], bool]] = {
        "fitting": lambda: bool(list(store.glob(".work/*/rows"))),
        "transforming": lambda: units_written(store) > 3,
    }
    process = begun(store, said, are_there[step])
    end = time.monotonic() + PATIENCE
    while len(workers_of(process)) < 2:
        assert time.monotonic() < end
    os.kill(workers_of(process)[0], signal.SIGKILL)
    assert process.wait(timeout=PATIENCE) == 1, said.read_text()
    assert "has ended without a result" in said.read_text()
    assert "Traceback" not in said.read_text()
    run([*FUNGI, "pca", str(store), *FLAGS, *DIVIDED])
    assert files_of(store) == files_of(whole)
    assert list((store / ".work").iterdir()) == []
    assert_sound(store)
