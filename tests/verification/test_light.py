"""Verification and status load no model, index or learning library, whatever a store holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from feature_world import clustered, make_store
from fungistore.evaluation.knn import KnnOptions, evaluate_knn
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET
from fungistore.pca.stage import PcaOptions, fit_pca

HEAVY = ("torch", "faiss", "sklearn", "scipy", "timm", "transformers")
SCRIPT = f"""
import sys
from fungistore.store.status import status
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

found = verify_store(sys.argv[1])
assert found.is_sound and found.units, found
assert repair_store(sys.argv[1]).verification.findings == ()
assert status(sys.argv[1]).samples
assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a PCA, indexes, a head and an evaluation."""
    root = tmp_path_factory.mktemp("light") / "s.fungi"
    vectors, labels = clustered(64, 2, 8)
    make_store(root, {"embeddings": vectors, "gradients/kl": vectors}, labels)
    fit_pca(root, PcaOptions(dim=4, name="four", fit_split="all"))
    build_index(root, IndexOptions(name="graph", factory="HNSW8"))
    evaluate_knn(root, KnnOptions(k=3, holdout=0.25)).save(QUIET)
    train_loff(root, TrainOptions(head="linear", epochs=1, holdout=0.25, dtype="float32"))
    return root


def test_a_full_verification_loads_nothing_heavy(root: Path) -> None:
    """Checksums tell that an index or a head is whole; opening them is not needed."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["verify", "status"])
def test_the_commands_load_nothing_heavy(root: Path, command: str) -> None:
    """`fungi verify` and `fungi status` are as light as the library's calls."""
    script = f"""
import sys
from fungi_cli.main import app
try:
    app(["{command}", sys.argv[1], "--json"])
except SystemExit as end:
    assert end.code in (0, None), end.code
assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
