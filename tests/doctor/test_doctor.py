"""The doctor: its judgements on given numbers, and its checks of the machine that tests run on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fungi_cli.main import app
from packaging.requirements import Requirement
from typer.testing import CliRunner, Result

from feature_world import clustered, make_store, write_block
from fungistore.doctor.check import Check
from fungistore.doctor.disk import (
    Space,
    Speed,
    check_disk,
    judge_error,
    judge_space,
    judge_speed,
    measure,
)
from fungistore.doctor.examine import Examination, examine
from fungistore.doctor.floor import measure_floor
from fungistore.doctor.hardware import (
    Gpu,
    judge_cpu,
    judge_devices,
    judge_memory,
    judge_threads,
)
from fungistore.doctor.limits import judge_files, judge_maps, judge_shared
from fungistore.doctor.software import (
    check_codecs,
    check_packages,
    judge_faiss,
    judge_mismatch,
    judge_optional,
    judge_packages,
    judge_python,
)
from fungistore.doctor.stored import judge_store
from fungistore.doctor.weights import cached_weights, judge_weights
from fungistore.errors import FungiError, UsageError
from fungistore.machine.device import default_batch_size, fast_dtype
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.store import Store
from tiny_world import TINY

runner = CliRunner()


def fungi(*arguments: object) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def found() -> Examination:
    """An examination of this machine."""
    return examine()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    vectors, labels = clustered(40, 2, 8)
    return make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)


def by_name(checks: object) -> dict[str, Check]:
    return {check.name: check for check in checks}  # type: ignore[attr-defined]


# --- judgements on given numbers


FAST = Speed(written=500e6, read=500e6, record=0.005, is_sound=True)
PLENTY = Space(int(100e9), 10**6)
NEEDS = [Requirement("alpha>=2.1"), Requirement("beta")]
GPU_FAISS = [Requirement("faiss-gpu>=1.15")]


@pytest.mark.parametrize(
    ("check", "state", "word"),
    [
        (judge_python((3, 11, 4)), "pass", "3.11.4"),
        (judge_python((3, 14, 0)), "pass", "3.14"),
        (judge_python((3, 10, 9)), "fail", "3.10"),
        (judge_packages(NEEDS, {"alpha": "2.1", "beta": "0"}), "pass", "all 2"),
        (judge_packages(NEEDS, {"alpha": "2.2.dev1", "beta": "0"}), "pass", "all 2"),
        (judge_packages(NEEDS, {"alpha": "2.0.9", "beta": "0"}), "fail", "alpha 2.0.9"),
        (judge_packages(NEEDS, {"alpha": "3"}), "fail", "beta missing"),
        (judge_packages(GPU_FAISS, {"faiss-cpu": "1.15.1"}), "pass", "all 1"),
        (judge_packages(GPU_FAISS, {"faiss-cpu": "1.14"}), "fail", "1.14 (needs >=1.15)"),
        (judge_packages(GPU_FAISS, {}), "fail", "faiss-gpu or faiss-cpu missing"),
        (judge_faiss("1.15", None, 0, ["faiss-cpu"]), "pass", "CPU build"),
        (judge_faiss("1.15", 0, 0, ["faiss-gpu", "faiss-cpu"]), "warn", "over each other"),
        (judge_faiss("1.15", None, 0), "pass", "CPU build"),
        (judge_faiss("1.15", 1, 1), "pass", "1 GPUs"),
        (judge_faiss("1.15", None, 1), "warn", "CPU build"),
        (judge_faiss("1.15", 0, 1), "warn", "0 GPUs"),
        (judge_optional([]), "pass", "matplotlib"),
        (judge_optional(["h5py"]), "pass", "h5py (HDF5"),
        (judge_devices([], has_driver=False), "pass", "cpu"),
        (judge_devices([], has_driver=True), "warn", "driver"),
        (judge_devices([Gpu("A", int(8e9), int(4e9), True)], has_driver=True), "pass", "8.0 GB"),
        (judge_devices([Gpu("T", 1, 1, False)], has_driver=True), "pass", "float16"),
        (judge_cpu(["avx2"], "float32"), "pass", "float32"),
        (judge_cpu([], "float32"), "warn", "none of avx2"),
        (judge_threads(8, 8), "pass", "8 threads"),
        (judge_threads(1, 2), "pass", "1 thread, "),
        (judge_threads(64, 4), "warn", "4 cores"),
        (judge_threads(1, 16), "warn", "16 cores"),
        (judge_threads(2, 0.5), "warn", "0.5 cores"),
        (judge_memory(int(16e9)), "pass", "16.0 GB"),
        (judge_memory(int(2e9)), "warn", "2.0 GB"),
        (judge_memory(int(5e8)), "fail", "500.0 MB"),
        (judge_memory(None), "pass", "not told"),
        (judge_files(None, None), "pass", "no limit"),
        (judge_files(4096, 4096), "pass", "4096"),
        (judge_files(256, None), "warn", "256"),
        (judge_files(256, 512), "warn", "512"),
        (judge_files(20, 4096), "fail", "20"),
        (judge_maps(65_530), "pass", "65530"),
        (judge_maps(1000), "warn", "1000"),
        (judge_shared(int(1e9), int(2e9)), "pass", "1.0 GB"),
        (judge_shared(int(1e6), int(64e6)), "warn", "DataLoader"),
        (judge_space(Path("x"), PLENTY), "pass", "100.0 GB"),
        (judge_space(Path("x"), Space(int(1e9), None)), "warn", "1.0 GB"),
        (judge_space(Path("x"), Space(int(1e7), None)), "fail", "10.0 MB"),
        (judge_space(Path("x"), Space(int(100e9), 50)), "warn", "50 files"),
        (judge_speed(FAST), "pass", "500.0 MB/s"),
        (judge_speed(Speed(5e6, 5e6, 0.005, True)), "warn", "5.0 MB/s"),
        (judge_speed(Speed(500e6, 5e6, 0.3, True)), "warn", "300.0 ms"),
        (judge_speed(Speed(500e6, 5e6, 0.005, False)), "fail", "other bytes"),
        (judge_error(Path("x"), OSError(errno.ENOSPC, "full")), "fail", "full"),
        (judge_error(Path("x"), OSError(errno.EINVAL, "no fsync")), "fail", "no fsync"),
        (judge_weights({}, [Path("a")]), "warn", "none in a"),
        (judge_weights({"m": 2_000_000}, []), "pass", "2.0 MB: m"),
    ],
    ids=lambda value: f"{value.name}" if isinstance(value, Check) else str(value),
)
def test_judgements(check: Check, state: str, word: str) -> None:
    """A number gives the state that it should, says itself, and what is wrong has a fix."""
    assert check.state == state, check
    assert word in check.found
    assert state == "pass" or check.fix


def test_fixes_are_about_what_was_found() -> None:
    """The number in a fix is one that would do."""
    assert judge_threads(64, 4).fix == "export OMP_NUM_THREADS=4"
    assert judge_files(256, 512).fix == "ulimit -n 512 (or ask an administrator)"
    assert judge_files(256, None).fix == "ulimit -n 1024"
    assert "pip install h5py" in str(judge_optional(["h5py"]).fix)
    assert "faiss-cpu" not in str(judge_packages(NEEDS, {}).fix)
    light = judge_packages(NEEDS, {"faiss-cpu": "1.15"})
    assert "--requirement requirements-cpu.txt" in str(light.fix)  # not what would bring CUDA


@pytest.mark.parametrize(("torch_version", "index"), [("2.13.0+cpu", True), ("2.15.0", False)])
def test_builds_that_do_not_match_are_named(torch_version: str, index: bool) -> None:
    """A torchvision with CUDA beside a CPU torch: the line that brings the right one is told."""
    error = RuntimeError("operator torchvision::nms does not exist\nmore")
    check = judge_mismatch("torchvision", error, {"torch": torch_version, "torchvision": "0.28.0"})
    assert check.state == "fail"
    assert check.found.endswith(f"(torch {torch_version}, torchvision 0.28.0)")
    assert ("--index-url https://download.pytorch.org/whl/cpu" in str(check.fix)) == index


@pytest.mark.slow  # a process that imports everything
def test_the_doctor_works_where_builds_do_not_match() -> None:
    """Neither timm nor torchvision can be imported, and it says so instead of dying of it."""
    code = (
        "import sys\n"
        "sys.modules['timm'] = sys.modules['torchvision'] = None\n"
        "import fungistore as fungi\n"
        "found = fungi.examine()\n"
        "print(*(check.name for check in found.checks if check.state == 'fail'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "torch and torchvision\n"


# --- this machine


def test_this_machine_is_fit(found: Examination) -> None:
    """Where the tests run, fungi runs: nothing fails, and each kind of check is there."""
    assert found.is_fit, [check for check in found.checks if check.state == "fail"]
    checks = by_name(found.checks)
    assert len(checks) == len(found.checks) == sum(found.counts.values())
    assert {
        "Python",
        "packages",
        "torch and torchvision",
        "faiss",
        "codecs",
        "optional packages",
        "devices",
        "CPU",
        "threads",
        "memory",
        "open files",
        "mapped files",
        "shared memory",
        "cached weights",
        "disk space",
        "disk speed",
    } == checks.keys()
    assert fast_dtype(torch.device("cpu")) in checks["CPU"].found
    assert torch.cuda.is_available() or "no CUDA" in checks["devices"].found


def test_packages_are_compared_with_the_distribution() -> None:
    """The requirements are this distribution's own, extras left out."""
    check = check_packages()
    assert check.state == "pass"
    assert f"torch {torch.__version__.partition('+')[0]}" in check.found


def test_codecs_are_tried_with_real_arrays() -> None:
    """Each codec of a store is written, read and damaged."""
    assert check_codecs().state == "pass"
    assert "bitround" in check_codecs().found


def test_a_disk_is_measured_and_left_clean(tmp_path: Path) -> None:
    """The speeds are positive, what was read is what was written, and no file is left."""
    speed = measure(tmp_path)
    assert speed.is_sound
    assert min(speed.written, speed.read, speed.record) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_small_disk_is_not_filled(small_disk: Path) -> None:
    """Where 64 MB would not fit, nothing is written, and the room is judged."""
    checks = by_name(check_disk(small_disk))
    assert checks["disk space"].state == "fail"
    assert "not tested" in checks["disk speed"].found


def test_weights_are_found_in_caches(tmp_path: Path) -> None:
    """The hub's snapshots count under their model's name, other files under their own."""
    snapshot = tmp_path / "hub" / "models--timm--vit_x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x" * 10)
    (snapshot / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    (snapshot / "config.json").write_bytes(b"{}")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "dino.pth").write_bytes(b"x" * 5)
    folders = [tmp_path / "hub", tmp_path / "own", tmp_path / "missing"]
    assert cached_weights(folders) == {"timm/vit_x": 10, "dino": 5}


def test_the_floor_is_the_bare_forward() -> None:
    """The dtype is the one that extraction would choose; batches are no larger than its own."""
    floor = measure_floor(TINY, image_size=32, device="cpu", seconds=0.1)
    cpu = torch.device("cpu")
    assert floor.images_per_second > 0
    assert (floor.dtype, floor.image_size) == (fast_dtype(cpu), 32)
    assert 1 <= floor.batch_size <= default_batch_size(cpu, 4)
    assert floor.to_check().state == "pass"
    assert "images/s" in floor.to_check().found


@pytest.mark.parametrize(
    ("model", "size"), [("vit_nonsense", None), ("resnet18", None), (TINY, 33)]
)
def test_a_floor_of_nothing_is_usage(model: str, size: int | None) -> None:
    """A model that is unknown or no vision transformer, or a size that does not fit, is named."""
    with pytest.raises(UsageError, match="cannot be measured") as caught:
        measure_floor(model, image_size=size, device="cpu")
    assert model in str(caught.value)


# --- a store


def test_a_finished_store_is_fit(store: Store) -> None:
    """Schema, writer and rows are told; images that are gone are a warning."""
    checks = by_name(judge_store(store.root))
    assert checks["schema"].found == ".".join(map(str, SCHEMA_VERSION))
    assert "nobody" in checks["writers"].found
    assert checks["features set"].state == "pass"
    assert checks["features set"].found.startswith("100.0%")
    assert checks["images"].state == "warn"
    assert "/nowhere" in checks["images"].found


def test_an_unfinished_store_tells_the_share(store: Store) -> None:
    """Uncommitted units, and rows that are NaN, are counted."""
    vectors = np.ones((40, 3), np.float32)
    vectors[0] = np.nan
    array = write_block(store, "set", "gradients/kl", vectors)
    (store.root / "commits" / array.name / "00000001.json").unlink()
    check = by_name(judge_store(store.root))["features set"]
    assert check.state == "warn"
    assert check.found == "80.0% of 2 arrays of 40 rows, 1 unusable row"


def test_a_writer_is_named(store: Store) -> None:
    """While a process writes, its number is told, and asking takes nothing from it."""
    with store.writing():
        check = by_name(judge_store(store.root))["writers"]
        assert check.state == "warn"
        assert f"pid {os.getpid()}" in check.found
        assert "whole store" in check.found
        with pytest.raises(FungiError, match="another process"), Store.open(store.root).writing():
            pass
    assert by_name(judge_store(store.root))["writers"].state == "pass"


def test_a_damaged_store_fails(store: Store) -> None:
    """The error of opening it is a failed check, with what to do; the command exits 1."""
    (store.root / "store.json").write_text("{")
    shown = fungi("doctor", store.root, "--json")
    assert shown.exit_code == 1
    document = json.loads(shown.stdout)
    assert document["fit"] is False
    (failed,) = [check for check in document["checks"] if check["state"] == "fail"]
    assert failed["name"] == "store"
    assert "damaged" in failed["found"]
    assert failed["fix"]


def test_an_empty_store_has_no_features_yet(tmp_path: Path) -> None:
    """A store without features says how to make some."""
    root = Store.open_or_create(tmp_path / "s.fungi").root
    assert "fungi extract" in str(by_name(judge_store(root))["features"].fix)


# --- the command


def test_json_is_one_object(store: Store) -> None:
    """--json prints every check with its four fields, the counts, and the floor."""
    shown = fungi("doctor", store.root, "--model", TINY, "--image-size", 32, "--json")
    assert shown.exit_code == 0, shown.stdout
    document = json.loads(shown.stdout)
    assert document.keys() == {"fit", "counts", "store", "checks", "floor"}
    assert document["counts"].keys() == {"pass", "warn", "fail"}
    assert all(check.keys() == {"name", "state", "found", "fix"} for check in document["checks"])
    assert all(check["fix"] for check in document["checks"] if check["state"] != "pass")
    assert document["floor"]["images_per_second"] > 0
    assert document["store"] == str(store.root)


def test_lines_name_state_and_fix(store: Store) -> None:
    """Without --json: a line a check, the fix below it, and the counts at the end."""
    shown = fungi("doctor", store.root)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert any(line.startswith("PASS  Python ") for line in lines)
    images = next(i for i, line in enumerate(lines) if line.startswith("WARN  images"))
    assert "try: " in lines[images + 1]
    assert lines[-1].endswith("0 fail")


def test_no_store_is_usage(tmp_path: Path) -> None:
    """A STORE that is none exits 2 and names the command that makes one."""
    refused = fungi("doctor", tmp_path / "none.fungi")
    assert refused.exit_code == 2
    assert "fungi extract" in refused.stderr


def test_help_has_examples() -> None:
    """Help shows commands that run and what the exit codes mean."""
    shown = fungi("doctor", "--help")
    assert shown.exit_code == 0
    for word in ("Examples:", "fungi doctor", "--json", "--model", "Exit codes"):
        assert word in shown.stdout
