"""The four stages as a user runs them: the real command line over tiny images and a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fungi_cli.main import app
from typer.testing import CliRunner

from tiny_world import TINY, write_images

FUNGI = (sys.executable, "-m", "fungi_cli")
STAGES = ("extract", "pca", "index", "train-loff")


def write_split_images(root: Path, train: int = 36, test: int = 12) -> Path:
    """Write two classes of images, `train` and `test` each; a training image is broken."""
    for seed, (split, count) in enumerate({"train": train, "test": test}.items()):
        write_images(root / split / "cat", count, seed=2 * seed)
        write_images(root / split / "dog", count, seed=2 * seed + 1)
    (root / "train" / "cat" / "007.jpg").write_text("broken")
    return root


def extract_command(images: Path, store: Path, weights: Path, *more: object) -> list[str]:
    """Embeddings, gradients and patches in units of 8 rows."""
    flags = "--features embeddings,kl,dino,patches --image-size 64 --unit-rows 8 --batch-size 4"
    model = ("--model", TINY, "--weights", str(weights), "--set", "dino.local_crops=2")
    run = (*FUNGI, "extract", str(images), str(store), *model, *flags.split())
    return [*run, *map(str, more)]


def stage_command(stage: str, store: Path, *more: object) -> list[str]:
    """A stage after the extraction: several units, an index that is trained, many checkpoints."""
    flags = {
        "pca": "--features embeddings,kl,dino --dim 16 --name p",
        "index": "--features embeddings,kl --factory IVF4,Flat --name i",
        "train-loff": "--head vit-xs --name h --epochs 2 --batch-size 8 --dropout 0.1 "
        "--checkpoint-minutes 0.0005",
    }[stage]
    return [*FUNGI, stage, str(store), *flags.split(), *map(str, more)]


def environment() -> dict[str, str]:
    """One thread, with which training is the same bit for bit."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def run(command: list[str], *codes: int) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which must be one of the exit codes; default: 0."""
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode in (codes or (0,)), done.stderr
    return done


def run_stages(images: Path, store: Path, weights: Path) -> None:
    """Run all four, uninterrupted."""
    run(extract_command(images, store, weights), 3)
    for stage in STAGES[1:]:
        run(stage_command(stage, store))


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store by its path, as far as two stores of the same images must agree.

    The manifest is the store's own; an index has its id, an evaluation its path, and both a
    checksum of that among others.
    """
    found = {}
    for path in store.rglob("*"):
        name = path.relative_to(store).as_posix()
        if path.is_file() and name not in ("store.json", ".locks/short.lock"):
            found[name] = path.read_bytes()
            if name.startswith(("indexes/", "evals/")) and path.suffix == ".json":
                document = json.loads(found[name])
                document = {k: v for k, v in document.items() if k not in ("store", "checksum")}
                found[name] = json.dumps(document).encode()
    return found


def assert_same_content(ours: Path, theirs: Path) -> None:
    """Fail unless two stores have the same files, byte for byte; says which differ."""
    one, other = content(ours), content(theirs)
    assert one, ours
    only = sorted(one.keys() ^ other.keys())
    assert not only, only
    differing = sorted(name for name in one if one[name] != other[name])
    assert not differing, differing


def assert_sound(store: Path) -> None:
    """Fail unless `fungi verify` finds nothing at all, not even a warning."""
    done = CliRunner().invoke(app, ["verify", str(store), "--json"])
    assert done.exit_code == 0, done.output
    findings = json.loads(done.stdout)["findings"]
    assert not findings, findings
