"""Several processes extract into one store: the end is that of one process, byte by byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fungistore.engines.choose import choose_slice
from fungistore.engines.engine import Local
from fungistore.errors import FungiError, UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.report import Silent
from fungistore.store.locks import Slice
from fungistore.store.store import Store
from tiny_world import TINY, contents, write_images


class Listening(Silent):
    """A reporter that keeps notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, text: str) -> None:
        self.lines.append(text)


def command(images: Path, store: Path, weights: Path, *more: object) -> list[str]:
    settings = {"--model": TINY, "--weights": weights, "--image-size": 32, "--dtype": "float32"}
    settings |= {"--batch-size": 4, "--unit-rows": 8, "--features": "embeddings,kl,simclr"}
    settings |= {"--set": "simclr.stride_scale=2", "--negatives": 3}
    flat = [str(word) for pair in settings.items() for word in pair]
    run = [sys.executable, "-m", "fungi_cli", "extract", str(images), str(store), "--json"]
    return [*run, *flat, *map(str, more)]


def assert_same(ours: Path, theirs: Path) -> None:
    one, other = contents(ours), contents(theirs)
    assert one.keys() == other.keys()
    differing = [name for name in one if one[name] != other[name]]
    assert differing == []
    rows = [Store.open(store).samples.rows(0, 10_000) for store in (ours, theirs)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> tuple[Path, Path]:
    """Images, one of them broken, and the store of one uninterrupted process."""
    folder = tmp_path_factory.mktemp("workers")
    write_images(folder / "images", 100)
    (folder / "images" / "007.jpg").write_text("broken")
    run = command(folder / "images", folder / "whole.fungi", tiny_weights)
    assert subprocess.run(run, capture_output=True, check=False).returncode == 3
    return folder / "images", folder / "whole.fungi"


@pytest.mark.slow
def test_two_workers_make_the_store_of_one(
    world: tuple[Path, Path], tmp_path: Path, tiny_weights: Path
) -> None:
    """Started at once on a new store, one of them killed and started again: the same bytes."""
    images, whole = world
    store = tmp_path / "s.fungi"
    runs = [
        command(images, store, tiny_weights, "--worker-id", i, "--num-workers", 2) for i in (0, 1)
    ]
    processes = [subprocess.Popen(r, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for r in runs]
    kill_after(processes[1], store, units=2)
    processes[1] = subprocess.Popen(runs[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [3, 3], ends
    documents = [json.loads(out) for out, _ in ends]
    assert [document["worker"]["units"] for document in documents] == [7, 6]
    assert max(document["units"]["done"] for document in documents) == 13
    assert_same(store, whole)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_workers_that_are_killed_again_and_again(
    world: tuple[Path, Path], tmp_path: Path, tiny_weights: Path, count: int
) -> None:
    """SIGKILL at random moments, start-up included; at last every row is there once and right."""
    images, whole = world
    store = tmp_path / "s.fungi"
    chance = random.Random(count)
    runs = [
        command(images, store, tiny_weights, "--worker-id", i, "--num-workers", count)
        for i in range(count)
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(run, **quiet) for run in runs]
    for _ in range(4 * count):
        time.sleep(chance.uniform(0, 4))
        victim = chance.randrange(count)
        processes[victim].kill()
        processes[victim].wait()
        processes[victim] = subprocess.Popen(runs[victim], **quiet)
    assert [process.wait(timeout=300) for process in processes] == [3] * count
    subprocess.run(command(images, store, tiny_weights), capture_output=True, check=False)
    assert_same(store, whole)


@pytest.mark.slow
def test_processes_are_started_and_shown_as_one(
    world: tuple[Path, Path], tmp_path: Path, tiny_weights: Path
) -> None:
    """--processes 2 gives one JSON object for both, exit code 3 for the broken image."""
    images, whole = world
    run = command(images, tmp_path / "s.fungi", tiny_weights, "--processes", 2)
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert document["units"] == {"done": 13, "total": 13, "computed": 13}
    assert (document["images_computed"], document["failed"]) == (100, 1)
    assert [worker["worker"]["id"] for worker in document["workers"]] == [0, 1]
    assert "worker 1: worker 1 of 2: extracting" in done.stderr
    assert_same(tmp_path / "s.fungi", whole)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_and_processes_make_one_store_at_real_size(tmp_path: Path, dtype: str) -> None:
    """ViT-S/14 at 224 on one thread, on three, and in two processes: the same bytes."""
    name = "vit_small_patch14_dinov2"
    torch.manual_seed(0)
    state = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    write_images(tmp_path / "images", 24)
    stores = []
    for threads, more in ((1, []), (3, []), (2, ["--processes", "2"])):
        store = tmp_path / f"{threads}.fungi"
        run = [sys.executable, "-m", "fungi_cli", "extract", str(tmp_path / "images"), str(store)]
        run += [
            "--model",
            name,
            "--weights",
            str(tmp_path / "w.safetensors"),
            "--image-size",
            "224",
        ]
        run += ["--features", "embeddings,kl", "--dtype", dtype, "--unit-rows", "8", *more]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        stores.append(store)
    for store in stores[1:]:
        assert_same(store, stores[0])


@pytest.mark.slow
def test_a_stop_reaches_all_processes(
    world: tuple[Path, Path], tmp_path: Path, tiny_weights: Path
) -> None:
    """SIGTERM to the parent ends both workers at a batch: exit 75, and the rest is done later."""
    images, whole = world
    store = tmp_path / "s.fungi"
    run = command(images, store, tiny_weights, "--processes", 2)
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_units(process, store, 1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    subprocess.run(command(images, store, tiny_weights), capture_output=True, check=False)
    assert_same(store, whole)


def test_workers_that_do_not_fit_together_are_refused(
    images: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    """Another division, or none, beside a live worker is refused; its own slice afterwards not."""
    options = ExtractOptions(model=TINY, weights=str(tiny_weights), image_size=32, unit_rows=4)
    store = tmp_path / "s.fungi"
    extract(str(images), store, options, engine=Local(Slice(0, 3)))
    thing = f"features/{TINY}/gradients/kl"
    with Store.open(store).writing(thing, part=Slice(0, 3)):
        for part in (Slice(0, 3), Slice(1, 2), Slice()):
            with pytest.raises(FungiError, match="another process is writing"):
                extract(str(images), store, options, engine=Local(part))
        done = extract(str(images), store, options, engine=Local(Slice(2, 3)))
        assert (done.units_done, done.units_total, done.worker_units) == (4, 6, 2)
    with pytest.raises(UsageError, match="anew"):
        extract(str(images), store, options, engine=Local(Slice(1, 3)), restart=True)
    assert extract(str(images), store, options).units_computed == 2


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ((None, None), {}, (0, 1)),
        ((2, 4), {"RANK": "1", "WORLD_SIZE": "2"}, (2, 4)),
        ((None, 1), {"RANK": "1", "WORLD_SIZE": "2"}, (0, 1)),
        ((None, 8), {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8)),
        ((None, None), {"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ((None, None), {"RANK": "1"}, (0, 1)),
        ((None, None), {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (0, 1)),
        (
            (None, None),
            {"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"},
            (1, 4),
        ),
        (
            (None, None),
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "1",
            },
            (2, 4),
        ),
    ],
)
def test_who_a_worker_is(
    flags: tuple[int | None, int | None],
    environment: dict[str, str],
    expected: tuple[int, int],
) -> None:
    """Flags win; else the scheduler's variables tell, and that is said."""
    reporter = Listening()
    part = choose_slice(*flags, environment, reporter)
    assert (part.index, part.count) == expected
    assert ("--num-workers 1" in "".join(reporter.lines)) == (
        flags == (None, None) and expected[1] > 1
    )


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ((1, None), {}),
        ((4, 4), {}),
        ((-1, 4), {}),
        ((None, 4), {}),
        ((0, 0), {}),
        ((None, None), {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "4"}),
    ],
)
def test_half_a_division_is_refused(
    flags: tuple[int | None, int | None], environment: dict[str, str]
) -> None:
    """A number without a count, or out of range, is a usage error."""
    with pytest.raises(UsageError):
        choose_slice(*flags, environment, Silent())


def kill_after(process: subprocess.Popen[bytes], store: Path, units: int) -> None:
    wait_for_units(process, store, units)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def wait_for_units(process: subprocess.Popen[bytes], store: Path, units: int) -> None:
    for _ in range(1200):
        if len(list(store.glob("commits/**/*.json"))) >= units:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail("no unit was committed")
