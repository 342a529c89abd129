"""Kills a stage with --restart before each of its steps on the disk, each time on a fresh copy.

    python restart_crash_points.py STAGE FOLDER

makes FOLDER/before, a store in which the stage was done with other settings, then the copies of
`crash_points.py`, whose steps these are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS), str(TESTS / "store")]

import crash_points  # noqa: E402

from feature_world import clustered, make_store  # noqa: E402
from fungistore.indexing.build import build_index  # noqa: E402
from fungistore.indexing.options import IndexOptions  # noqa: E402
from fungistore.loff.options import TrainOptions  # noqa: E402
from fungistore.loff.train import train_loff  # noqa: E402
from fungistore.pca.options import PcaOptions  # noqa: E402
from fungistore.pca.stage import fit_pca  # noqa: E402

ROWS, DIM, CLASSES = 48, 8, 3


def pca(root: Path, seed: int, *, restart: bool) -> None:
    options = PcaOptions(features=("embeddings",), dim=4, holdout=0.25, seed=seed, name="p")
    fit_pca(root, options, restart=restart)


def index(root: Path, seed: int, *, restart: bool) -> None:
    options = IndexOptions(features=("embeddings",), factory="IVF2,Flat", seed=seed, name="i")
    build_index(root, options, restart=restart)


def head(root: Path, seed: int, *, restart: bool) -> None:
    options = TrainOptions(
        head="linear", name="h", epochs=2, batch_size=16, holdout=0.25, seed=seed
    )
    train_loff(root, options, restart=restart)


STAGES: dict[str, Callable[..., None]] = {"pca": pca, "index": index, "head": head}
BEFORE, AFTER = 1, 2  # seeds


def prepare(root: Path, stage: str) -> None:
    """Make a store, and run the stage with the settings that are going to be replaced."""
    vectors, labels = clustered(ROWS, CLASSES, DIM)
    make_store(root, {"embeddings": vectors.astype(np.float32)}, labels)
    STAGES[stage](root, BEFORE, restart=False)


if __name__ == "__main__":
    name = sys.argv[1]
    crash_points.OPERATIONS[name] = (
        lambda root: prepare(root, name),
        lambda root: STAGES[name](root, AFTER, restart=True),
    )
    sys.exit(crash_points.main(name, Path(sys.argv[2])))
