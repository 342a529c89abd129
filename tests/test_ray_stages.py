"""The stages after extraction on a Ray cluster: byte for byte what one process makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_world import files_of
from feature_world import clustered, make_store
from ray_world import PATIENCE, Nodes, nodes
from stage_world import FUNGI

ROWS, DIM, UNIT_ROWS = 70_000, 256, 2048  # three blocks of an index, and many groups of a PCA
HOLDOUT = ("--holdout", "0.02", "--split-seed", "0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes(tmp_path_factory.mktemp("cluster") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors, of which one is not usable."""
    vectors, labels = clustered(ROWS, 4, DIM, seed=4, noise=14)
    vectors[5] = np.nan
    root = tmp_path_factory.mktemp("features") / "s.fungi"
    make_store(root, {"embeddings": vectors}, labels, unit_rows=UNIT_ROWS)
    return root


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patch tokens to train heads on."""
    _, labels = clustered(96, 3, 12, seed=4, noise=4)
    patches = np.random.default_rng(0).normal(size=(96, 4, 4, 64)).astype(np.float16)
    root = tmp_path_factory.mktemp("tensors") / "s.fungi"
    make_store(root, {"patches": patches}, labels, unit_rows=32)
    return root


def told(words: list[str], folder: Path, code: int = 0) -> dict[str, Any]:
    """Run a command in a folder, by a process whose libraries have one thread each."""
    done = subprocess.run(
        [*FUNGI, *words, "--json"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def both(
    words: list[str], root: Path, cluster: Nodes, tmp_path: Path, *flags: str, code: int = 0
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run a stage on two copies, one process alone and on the cluster: what is told, and the files.

    Both tell the same, but for times, and the files are the same.
    """
    before, found = cluster.actors(), []
    for name, more in (("alone", []), ("ray", ["--engine", "ray", "--address", cluster.address])):
        copy = shutil.copytree(root, tmp_path / name / "s.fungi")
        document = told([*words, "s.fungi", *flags, *more], copy.parent, code)
        document.pop("seconds", None)
        found.append((document, files_of(copy)))
    assert cluster.actors() >= before + 2, "the cluster was not used"
    (alone, files), (_, others) = found
    assert not list((tmp_path / "ray" / "s.fungi" / ".work").glob("*"))
    assert others.keys() == files.keys()
    assert [name for name, data in files.items() if others[name] != data] == []
    assert found[0][0] == found[1][0]
    return alone, files


@pytest.mark.scale
def test_a_pca(cluster: Nodes, features: Path, tmp_path: Path) -> None:
    """Fitted on groups of units, and transformed."""
    words = ["--dim", "16", "--name", "p"]
    done, files = both(["pca"], features, cluster, tmp_path, *words)
    units = -(-ROWS // UNIT_ROWS)
    assert done["units"] == {"done": units, "total": units, "computed": units}
    assert sum("pca/p/c/" in name for name in files) == units


@pytest.mark.scale
def test_an_index(cluster: Nodes, features: Path, tmp_path: Path) -> None:
    """Its lists, codes and recall, of three blocks of rows."""
    done, files = both(["index"], features, cluster, tmp_path, "--factory", "IVF16,PQ16x4")
    assert done["vectors"] == ROWS - 1
    assert [name for name in files if name.endswith(".faiss")]


@pytest.mark.scale
def test_scores_of_nearest_neighbours(cluster: Nodes, features: Path, tmp_path: Path) -> None:
    """Of test rows in blocks, with a PCA of the first process."""
    flags = ("--pca-dim", "8", "--k", "5")
    done, _ = both(["eval", "knn"], features, cluster, tmp_path, *HOLDOUT, *flags)
    assert 0.3 < done["metrics"]["accuracy"] < 1


@pytest.mark.scale
def test_findings(cluster: Nodes, features: Path, tmp_path: Path) -> None:
    """A damaged chunk, a missing one, and a record that lies, in order."""
    root = shutil.copytree(features, tmp_path / "damaged.fungi")
    chunks = root / "features.zarr" / "set" / "embeddings" / "c"
    data = bytearray((chunks / "7" / "0").read_bytes())
    data[11] ^= 1
    (chunks / "7" / "0").write_bytes(data)
    (chunks / "2" / "0").unlink()
    record = root / "commits" / "set" / "embeddings" / "00000005.json"
    record.write_text(record.read_text().replace('"nan_rows": 0', '"nan_rows": 4'))
    done, _ = both(["verify"], root, cluster, tmp_path, code=5)
    assert len(done["findings"]) == 3


@pytest.mark.scale
def test_heads_of_several_seeds(cluster: Nodes, tensors: Path, tmp_path: Path) -> None:
    """Weights of a head whose sums would be divided among threads, if there were several."""
    before, weights = cluster.actors(), []
    words = ["train-loff", "--head", "attn-pool", "--epochs", "1", "--holdout", "0.25"]
    words += ["--seeds", "3", "--device", "cpu"]
    for name, more in (("alone", []), ("ray", ["--engine", "ray", "--address", cluster.address])):
        copy = shutil.copytree(tensors, tmp_path / name / "s.fungi")
        told([*words, "s.fungi", *more], copy.parent)
        files = files_of(copy).items()
        weights.append({n: data for n, data in files if n.endswith(".safetensors")})
    assert cluster.actors() >= before + 2
    assert len(weights[0]) >= 3
    assert weights[0] == weights[1]
