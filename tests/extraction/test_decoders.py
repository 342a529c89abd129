"""Decoding in processes: the same features, and an end with everything that could go wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fungistore.errors import FungiError
from fungistore.extraction.decoders import (
    MANY_SAMPLES,
    InProcesses,
    InThreads,
    choose_processes,
)
from fungistore.extraction.drawing import Drawer
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import resolve
from fungistore.extraction.stage import extract
from fungistore.modalities.views import Drawn, DrawnBatch, Inputs, ViewGroup, ViewRecipe
from fungistore.randomness import Stream
from fungistore.store.store import Store
from tiny_world import TINY, write_images

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
IMAGES = 40
WANTED = frozenset(["embeddings", "dino"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("decoders") / "images"
    write_images(folder, IMAGES)
    (folder / "011.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def options(tiny_weights: Path) -> ExtractOptions:
    """Features with views of their own and without."""
    return ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=64,
        features=("embeddings", "dino"),
        dtype="float32",
        batch_size=16,
        unit_rows=32,
        workers=2,
        device="cpu",
    )


@pytest.fixture(scope="module")
def drawer(options: ExtractOptions) -> Drawer:
    """Draws what the tiny model's features need."""
    return throwaway_features(resolve(options, {})).drawer


@pytest.fixture(scope="module")
def processes(drawer: Drawer) -> Iterator[InProcesses]:
    """Two processes, which the tests share: they take seconds to start."""
    decoders = InProcesses(drawer, 2)
    yield decoders
    decoders.close()


def rows_of(images: Path) -> list[dict[str, object]]:
    names = sorted(path.name for path in images.iterdir())
    return [
        {"row": row, "id": name, "uri": name, "root": str(images)} for row, name in enumerate(names)
    ]


@pytest.mark.slow
def test_processes_draw_what_threads_draw(
    images: Path, drawer: Drawer, processes: InProcesses
) -> None:
    """Bit for bit, failures included, task after task."""
    rows = rows_of(images)
    expected = InThreads(drawer).draw(rows, WANTED)
    for start in range(0, IMAGES, 8):
        found = processes.draw(rows[start : start + 8], WANTED)
        for ours, theirs in zip(found, expected[start : start + 8], strict=True):
            assert ours.failure == theirs.failure
            assert ours.drawn.keys() == theirs.drawn.keys()
            for name, arrays in theirs.drawn.items():
                assert all(map(np.array_equal, ours.drawn[name], arrays))
    assert sum(image.failure is not None for image in expected) == 1


@dataclass(frozen=True)
class _NoRoom:
    """Another recipe's views; memory is not enough where the pixels' sum is odd."""

    views: ViewRecipe

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        return self.views.groups

    def on(self, device: torch.device) -> ViewRecipe:
        return self

    def draw(self, item: Any, random: Stream) -> Drawn:
        if item.sum() % 2:
            raise MemoryError
        return self.views.draw(item, random)

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        return self.views.render(drawn, group, views)


def test_an_item_without_views_is_a_failed_input(images: Path, drawer: Drawer) -> None:
    """As one that cannot be read; the rows beside it are what they are without it."""
    rows = rows_of(images)
    expected = InThreads(drawer).draw(rows, WANTED)
    decoders = InThreads(replace(drawer, base=_NoRoom(drawer.base)))
    found = decoders.draw(rows, WANTED)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.drawn.keys() == theirs.drawn.keys()
        if ours.failure == theirs.failure:
            for name, arrays in theirs.drawn.items():
                assert all(map(np.array_equal, ours.drawn[name], arrays))
        else:
            assert ours.failure is not None
            assert ours.failure.message == "the image has no views: MemoryError"
    assert 0 < sum(image.failure is not None for image in found) - 1 < IMAGES - 1


def test_a_store_is_the_same(images: Path, options: ExtractOptions, tmp_path: Path) -> None:
    """Whoever decoded, a run writes the same arrays and the same list of failures."""
    stores = []
    for decode_in in ("threads", "processes"):
        path = tmp_path / f"{decode_in}.fungi"
        result = extract(str(images), path, replace(options, decode_in=decode_in))
        assert (result.images_computed, result.failed) == (IMAGES, 1)
        stores.append(Store.open(path))
    one, other = stores
    assert one.failures() == other.failures()
    arrays, others = (store.arrays(TINY) for store in stores)
    assert {n: a.fingerprint for n, a in arrays.items()} == {
        n: a.fingerprint for n, a in others.items()
    }
    for name, array in arrays.items():
        ours, theirs = array.read(0, IMAGES), others[name].read(0, IMAGES)
        assert np.array_equal(ours, theirs, equal_nan=True)


def test_a_killed_process_is_explained(images: Path, drawer: Drawer) -> None:
    """As the system does when memory is full: the run ends with what happened, and what to try."""
    decoders = InProcesses(drawer, 1)
    try:
        (process,) = decoders._processes
        process.send_signal(signal.SIGKILL)
        with pytest.raises(FungiError, match=r"(?s)process has ended.*-9.*--decode-in threads"):
            decoders.draw(rows_of(images), WANTED)
    finally:
        decoders.close()
    assert process.poll() is not None


def test_auto_takes_processes_for_a_gpu_and_many_images() -> None:
    """Everything else is done by threads, unless asked for."""
    assert choose_processes("auto", "cuda", MANY_SAMPLES + 1)
    assert not choose_processes("auto", "cuda", MANY_SAMPLES)
    assert not choose_processes("auto", "cpu", 10**9)
    assert choose_processes("processes", "cpu", 1)
    assert not choose_processes("threads", "cuda", 10**9)


LONELY = """
import sys, time
from timm.data import resolve_data_config
from fungistore.extraction.decoders import InProcesses
from fungistore.extraction.drawing import Drawer
from fungistore.modalities.image.images import Images
from fungistore.modalities.image.inference import InferenceView
from fungistore.modalities.modality import find_modality

view = InferenceView(resolve_data_config({"img_size": 32}))
decoders = InProcesses(Drawer(find_modality("image"), view, {}, 0), 1)
decoders.draw([], frozenset())
print(decoders._processes[0].pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@linux
def test_a_process_does_not_outlive_a_killed_parent() -> None:
    """Idle, waiting for its next task, it sees that none will come."""
    with subprocess.Popen([sys.executable, "-c", LONELY], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    assert ends(child)


@pytest.mark.slow
@linux
def test_a_stopped_run_ends_its_processes(
    images: Path, options: ExtractOptions, tmp_path: Path
) -> None:
    """After ^C, too, nobody decodes for nobody."""
    config = tmp_path / "settings.json"
    settings = replace(options, decode_in="processes", unit_rows=None)
    config.write_text(json.dumps(settings.to_config()))
    command = [sys.executable, "-m", "fungi_cli", "extract", str(images)]
    command += [str(tmp_path / "s.fungi"), "--config", str(config)]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    children: list[int] = []
    while run.poll() is None and len(children) < 2:
        children = children_of(run.pid)
        time.sleep(0.02)
    assert len(children) == 2
    run.send_signal(signal.SIGINT)
    run.wait(60)
    assert all(map(ends, children))


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found += [int(child) for child in task.read_text().split()]
    return found


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
