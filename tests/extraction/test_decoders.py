"""Decoding in processes: the same features, and an end with everything that could go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungistore.errors import FungiError
from fungistore.extraction import ExtractOptions, extract
from fungistore.extraction.decoders import (
    MANY_IMAGES,
    InProcesses,
    InThreads,
    choose_processes,
)
from fungistore.extraction.drawing import Drawer
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.resolve import resolve
from fungistore.store import Store
from tiny_world import TINY, write_images

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
        TINY,
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
    assert choose_processes("auto", "cuda", MANY_IMAGES + 1)
    assert not choose_processes("auto", "cuda", MANY_IMAGES)
    assert not choose_processes("auto", "cpu", 10**9)
    assert choose_processes("processes", "cpu", 1)
    assert not choose_processes("threads", "cuda", 10**9)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the children in /proc")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_run(
    kind: signal.Signals, images: Path, options: ExtractOptions, tmp_path: Path
) -> None:
    """Killed or asked to stop, a run leaves nothing behind that decodes for nobody."""
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
    run.send_signal(kind)
    run.wait(60)
    deadline = time.monotonic() + 30
    while any(map(is_decoding, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_decoding, children))


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found += [int(child) for child in task.read_text().split()]
    return [child for child in found if is_decoding(child)]


def is_decoding(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"decoders" in words and os.path.exists(f"/proc/{pid}/exe")
