"""^C and SIGTERM in the stages after the extraction: said, kept, continued; twice is at once."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feature_world import clustered, make_store
from stage_world import FUNGI, assert_same_content, assert_sound, environment, run

ROWS, DIM, CLASSES = 2048, 32, 4
FLAGS = {
    "pca": "--features embeddings --dim 16 --fit-split all --name p",
    "index": "--features embeddings --factory IVF64,Flat --name i",
    "train-loff": "--head attn-pool --epochs 20 --batch-size 256 --holdout 0.25 --name h",
}
IsThere = Callable[[Path, str], bool]  # of the store and what was said
IN_THE_MIDST: dict[str, IsThere] = {
    "pca": lambda store, _: len(list(store.glob("commits/set/pca/p/*.json"))) > 2,
    "index": lambda _, said: "training IVF64" in said,
    "train-loff": lambda _, said: "epoch 1/20" in said,
}
CONTINUES = {"pca": "resuming: ", "index": f"resuming i: 0/{ROWS}", "train-loff": "resuming: epoch"}
SLOW_TRAINING = "--features embeddings --factory OPQ16,IVF64,PQ16x8 --name slow"  # a minute
AT_ONCE = 10.0  # seconds, on a machine that has other things to do


class Running:
    """A stage in a process of its own, whose stderr goes into a file."""

    def __init__(self, stage: str, store: Path, flags: str) -> None:
        self._store, self._said = store, store.with_suffix(".stderr")
        with self._said.open("w") as stderr:
            self.process = subprocess.Popen(
                [*FUNGI, stage, str(store), *flags.split()],
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_until(self, is_there: IsThere) -> None:
        while not is_there(self._store, self.said):
            assert self.process.poll() is None, self.said
            time.sleep(0.002)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of features, in 128 units."""
    vectors, labels = clustered(ROWS, CLASSES, DIM)
    patches = np.repeat(vectors, 4, axis=0).reshape(ROWS, 2, 2, DIM).astype(np.float16)
    root = tmp_path_factory.mktemp("signals") / "features.fungi"
    make_store(root, {"embeddings": vectors}, labels)
    make_store(root, {"patches": patches}, labels, unit_rows=512)
    return root


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("pca", marks=pytest.mark.slow),
        "index",
        pytest.param("train-loff", marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_a_stage_that_then_continues(
    features: Path, tmp_path: Path, stage: str
) -> None:
    """SIGTERM exits 75, then ^C 130; both say how to go on, and the end is that of a quiet run."""
    whole, store = tmp_path / "whole.fungi", tmp_path / "s.fungi"
    shutil.copytree(features, whole)
    shutil.copytree(features, store)
    words = [*FUNGI, stage, str(whole), *FLAGS[stage].split()]
    run(words)
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        running = Running(stage, store, FLAGS[stage])
        running.wait_until(IN_THE_MIDST[stage] if code == 75 else _goes_on(stage))
        running.process.send_signal(number)
        assert running.process.wait(timeout=120) == code, running.said
        assert "stopping at the next safe point" in running.said
        assert "run the same command again" in running.said
        assert "Traceback" not in running.said
        assert_sound(store)
    words[words.index(str(whole))] = str(store)
    assert CONTINUES[stage] in run(words).stderr
    assert_same_content(store, whole)


def _goes_on(stage: str) -> IsThere:
    return lambda _, said: CONTINUES[stage] in said


def test_a_second_signal_stops_at_once(features: Path, tmp_path: Path) -> None:
    """In the midst of a training that nothing else would end; the store is none the worse."""
    store = tmp_path / "s.fungi"
    shutil.copytree(features, store)
    running = Running("index", store, SLOW_TRAINING)
    running.wait_until(lambda _, said: "training OPQ" in said)
    running.process.terminate()
    running.wait_until(lambda _, said: "once more" in said)
    asked = time.monotonic()
    running.process.terminate()
    assert running.process.wait(timeout=300) == -signal.SIGTERM
    assert time.monotonic() - asked < AT_ONCE
    run([*FUNGI, "index", str(store), *FLAGS["index"].split()])
    assert_sound(store)


@pytest.mark.slow
def test_a_signal_during_the_imports_stops_cleanly(features: Path, tmp_path: Path) -> None:
    """Loading torch takes seconds, and a job's end may fall into them."""
    store = tmp_path / "s.fungi"
    shutil.copytree(features, store)
    running = Running("train-loff", store, FLAGS["train-loff"])
    maps = Path(f"/proc/{running.process.pid}/maps")
    running.wait_until(lambda *_: "libtorch" in maps.read_text())
    running.process.terminate()
    assert running.process.wait(timeout=120) == 75, running.said
    assert "run the same command again" in running.said
