"""Kills and signals, on real processes: what is committed stays, and the same command goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from tiny_world import TINY, write_images

KILLS = 20


def command(images: Path, store: Path, weights: Path) -> list[str]:
    flags = "--features embeddings,kl,dino,patches --image-size 64 --unit-rows 4 --batch-size 4"
    return [
        *(sys.executable, "-m", "fungi_cli", "extract", str(images), str(store)),
        *("--model", TINY, "--weights", str(weights), "--set", "dino.local_crops=2"),
        *flags.split(),
    ]


def content(store: Path) -> dict[str, NDArray[np.floating]]:
    group = zarr.open_group(store / "features.zarr" / TINY, mode="r")
    members = group.members(max_depth=None)
    return {name: np.asarray(m[:]) for name, m in members if isinstance(m, zarr.Array)}


def records(store: Path) -> dict[str, tuple[int, bytes]]:
    """Every commit record by name: when it was written, and what it says."""
    return {
        path.relative_to(store).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in store.glob("commits/**/*.json")
    }


def wait_for_units(store: Path, process: subprocess.Popen[bytes], units: int) -> None:
    """Wait until some units are committed, or the process has ended."""
    while process.poll() is None and len(records(store)) < units:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_stops_cleanly_and_the_same_command_continues(
    tmp_path: Path, tiny_weights: Path, number: signal.Signals, code: int
) -> None:
    """SIGTERM exits 75 and SIGINT 130, both say how to go on, and going on completes the store."""
    write_images(tmp_path / "images", 120)
    run = command(tmp_path / "images", tmp_path / "s.fungi", tiny_weights)
    process = subprocess.Popen(run, stderr=subprocess.PIPE)
    wait_for_units(tmp_path / "s.fungi", process, 3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert b"run the same command again" in errors
    before = records(tmp_path / "s.fungi")
    assert before
    done = subprocess.run(run, stderr=subprocess.PIPE, check=True)
    assert b"resuming: " in done.stderr
    after = records(tmp_path / "s.fungi")
    assert all(after[name] == record for name, record in before.items())
    assert all(np.isfinite(array).all() for array in content(tmp_path / "s.fungi").values())


@pytest.mark.slow
def test_random_kills_leave_the_store_of_an_uninterrupted_run(
    tmp_path: Path, tiny_weights: Path
) -> None:
    """Twenty SIGKILLs at random moments: the end is byte-equal, nothing committed is redone."""
    write_images(tmp_path / "images", 400)
    (tmp_path / "images" / "007.jpg").write_text("broken")
    whole, killed = tmp_path / "whole.fungi", tmp_path / "killed.fungi"
    finished = subprocess.run(command(tmp_path / "images", whole, tiny_weights), check=False)
    assert finished.returncode == 3
    chance = random.Random(0)
    committed: dict[str, tuple[int, bytes]] = {}
    kills = 0
    while kills < KILLS:
        with (tmp_path / "stderr").open("w") as said:
            run = command(tmp_path / "images", killed, tiny_weights)
            process = subprocess.Popen(run, stderr=said)
        wait_for_units(killed, process, len(committed) + chance.randrange(12))
        time.sleep(chance.random() * 0.1)
        assert process.poll() is None, (tmp_path / "stderr").read_text()
        process.kill()
        process.wait()
        kills += 1
        now = records(killed)
        assert all(now[name] == record for name, record in committed.items())
        committed = now
    finished = subprocess.run(command(tmp_path / "images", killed, tiny_weights), check=False)
    assert finished.returncode == 3
    ours, theirs = content(killed), content(whole)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    texts = {name: text for name, (_, text) in records(whole).items()}
    assert {name: text for name, (_, text) in records(killed).items()} == texts
    assert (killed / "failures.jsonl").read_bytes() == (whole / "failures.jsonl").read_bytes()
    assert not list(killed.rglob("*.partial"))
