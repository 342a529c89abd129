"""A full disk at every later stage: said plainly, nothing is lost, and room is all it takes."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner, Result

from feature_world import clustered, make_store
from fungistore.training.speed import SPEED
from fungistore.verification.verify import verify_store

ROWS, DIM = 96, 8
PAGE = 4096
PAGES = (0, 1, 2, 3, 4, 6, 8, 11, 14, 18, 23, 29, 36, 45, 56, 70, 90, 115, 150, 200, 260, 340)
STAGES = {
    "pca": "--dim 4 --name p --fit-split all",
    "index": "--factory IVF2,Flat --name i",
    "train-loff": "--name h --head linear --epochs 2 --batch-size 16 --holdout 0.25 "
    "--checkpoint-minutes 0.00001",
}
runner = CliRunner()


def fungi(*words: object) -> Result:
    return runner.invoke(app, [str(word) for word in words])


def store_at(root: Path) -> Path:
    vectors, labels = clustered(ROWS, 3, DIM)
    patches = np.repeat(vectors, 4, axis=0).reshape(ROWS, 2, 2, DIM).astype(np.float16)
    blocks = {"embeddings": vectors, "gradients/kl": vectors[:, ::-1], "patches": patches}
    make_store(root, blocks, labels, unit_rows=16)
    return root


@pytest.fixture
def ballast(small_disk: Path) -> Iterator[Path]:
    """A file on a disk of 4 MB, to be as long as leaves the wanted room."""
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    yield small_disk / "ballast"
    gc.collect()  # a failed run's exception holds its open files, in cycles


def leave(ballast: Path, pages: int) -> None:
    """Fill the disk but for some pages."""
    ballast.unlink(missing_ok=True)
    free = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        file.write(bytes(free.f_bavail * free.f_frsize - pages * PAGE))


def files(root: Path) -> dict[str, bytes]:
    """Every file but the locks' and the clock's, by its path."""
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    found = {name: path for name, path in found.items() if path.name != SPEED}
    return {name: p.read_bytes() for name, p in found.items() if not name.startswith(".locks/")}


@pytest.mark.parametrize("stage", STAGES)
def test_room_is_all_that_a_full_disk_takes(tmp_path: Path, ballast: Path, stage: str) -> None:
    """With little room, then ever more: each time the error says so, and what was there stays."""
    made = store_at(tmp_path / "made.fungi")
    store, whole = ballast.parent / "s.fungi", tmp_path / "whole.fungi"
    shutil.copytree(made, store)
    shutil.copytree(made, whole)
    flags = STAGES[stage].split()
    assert fungi(stage, whole, *flags).exit_code == 0
    before, failures = files(store), 0
    for pages in PAGES:
        leave(ballast, pages)
        done = fungi(stage, store, *flags)
        now = files(store)
        assert before.items() <= now.items()
        if done.exit_code == 0:
            break
        failures += 1
        assert done.exit_code == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert "make room" in done.stderr
        assert "Traceback" not in done.stderr
        ballast.unlink()
        assert [f for f in verify_store(store).findings if f.severity == "error"] == []
    assert failures >= 4
    assert done.exit_code == 0, done.stderr
    assert files(store) == files(whole)
    assert verify_store(store).findings == ()
    assert sorted(path.name for path in (store / ".locks").iterdir()) == ["short.lock"]


def test_what_only_reads_needs_no_room(tmp_path: Path, ballast: Path) -> None:
    """Search, evaluation and prediction go on; a result that cannot be kept is shown and said."""
    store = store_at(ballast.parent / "s.fungi")
    for stage, flags in STAGES.items():
        assert fungi(stage, store, *flags.split()).exit_code == 0
    leave(ballast, 0)
    for words in (
        ("search", "000001.jpg", "--index", "i"),
        ("predict", "--rows", "0-3", "--head", "h"),
        ("status",),
        ("verify",),
    ):
        done = fungi(*words[:1], store, *words[1:])
        assert done.exit_code == 0, done.stderr
    for words in (
        ("knn", "--holdout", 0.25),
        ("linear", "--holdout", 0.25),
        ("cluster",),
        ("retrieval",),
        ("compare", "--holdout", 0.25),
        ("loff", "--head", "h"),
    ):
        done = fungi("eval", words[0], store, *words[1:])
        assert done.exit_code == 0, (words, done.stderr)
        assert "not saved" in done.stderr
        assert "No space left on device" in done.stderr


@pytest.mark.parametrize("flag", ["--html", "--plot"])
def test_files_beside_the_store_are_whole_or_not_there(
    tmp_path: Path, ballast: Path, flag: str
) -> None:
    """A page or plot for which there is no room: exit 1, and no half of it."""
    store = store_at(tmp_path / "s.fungi")
    assert fungi("index", store, "--name", "i").exit_code == 0
    leave(ballast, 0)
    command = {
        "--html": ("search", store, "000001.jpg", "--html", ballast.parent / "a.html"),
        "--plot": ("eval", "compare", store, "--holdout", 0.25, "--plot", ballast.parent / "a.png"),
    }[flag]
    done = fungi(*command)
    assert done.exit_code == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "make room" in done.stderr
    assert [path.name for path in ballast.parent.iterdir()] == ["ballast"]
