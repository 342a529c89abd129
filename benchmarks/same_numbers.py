"""Do two checkouts give the same numbers, bit for bit? Real images, real weights, every stage.

    git worktree add ../before REVISION
    python benchmarks/same_numbers.py ../before

Runs `fungi` of both checkouts, each in processes of its own, over a few textile images with a
DINOv2 ViT-S/14 at 224 pixels: both gradient paths, float32 and bfloat16, all objectives, PCA,
indexes, search, every evaluation, a trained head. Compares arrays, scores, neighbours and weights,
prints a line for each, and exits 1 if one differs. What only describes (paths, fingerprints, the
layout of setups) may differ. Some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fungistore.demo.images import textile_subset
from fungistore.demo.weights import dinov2_vits14_weights

ROOT = Path(__file__).parents[1]

PER_CLASS = 6
MODEL = "vit_small_patch14_dinov2"
SCORES = ("features", "dim", "n_train", "n_test", "metrics", "spread")


class Checkout:
    """A checkout whose `fungi` runs in processes that see no other one.

    Args:
        root: its directory.
        place: a folder for its stores.
    """

    def __init__(self, root: Path, place: Path) -> None:
        self.root, self.place = root.resolve(), place
        (place / "path").mkdir(parents=True)
        (place / "path" / "fungi_cli").symlink_to(self.root / "cli")
        self._environment = os.environ | {"PYTHONPATH": f"{place / 'path'}:{self.root}"}

    def fungi(self, *arguments: object) -> Any:
        """Run a command with --json and return what it printed."""
        command = [sys.executable, "-P", "-m", "fungi_cli", *map(str, arguments), "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=self._environment
        )
        if done.returncode:
            sys.exit(f"{self.root}: fungi {' '.join(command[4:])}\n{done.stderr}")
        return json.loads(done.stdout)


def results(checkout: Checkout, images: Path, weights: Path) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of everything that must be the same: arrays, numbers, texts."""
    store = checkout.place / "s.fungi"
    extract = ["extract", images, store, "--model", MODEL, "--weights", weights]
    extract += ["--image-size", 224, "--unit-rows", 8, "--batch-size", 8]
    whole = ["--features", "embeddings,kl,dino,simclr,patches", "--negatives", 4]
    checkout.fungi(*extract, *whole, "--dtype", "float32")
    other = ["--features", "embeddings,kl,dino", "--limit", 8, "--view-size", "native"]
    general = ["--target-layer", "blocks.11.mlp.fc2", "--projection", "gaussian"]
    checkout.fungi(*extract, *other, *general, "--dtype", "float32", "--feature-set", "general")
    checkout.fungi(*extract, *other, "--dtype", "bfloat16", "--feature-set", "half")
    group = zarr.open_group(store / "features.zarr", mode="r")
    for name in sorted(name for name, _ in _arrays(group)):
        yield name, np.asarray(group[name][:])

    of_all = ["--feature-set", MODEL]
    checkout.fungi("pca", store, *of_all, "--dim", 8, "--holdout", 0.3, "--name", "small")
    coordinates = zarr.open_array(store / "features.zarr" / MODEL / "pca" / "small", mode="r")
    yield "pca/small", np.asarray(coordinates[:])
    for factory in ("Flat", "HNSW16"):
        checkout.fungi("index", store, *of_all, "--factory", factory, "--name", factory)
        folder = store / "indexes" / MODEL / factory
        yield f"index {factory}", next(folder.glob("vectors-*.faiss")).read_bytes()
    query = sorted(images.glob("*/*"))[3]
    for asked in (query, "local/" + sorted(p.name for p in (images / "local").iterdir())[0]):
        found = checkout.fungi("search", store, asked, "--index", "Flat", *of_all)
        near = found["answers"][0]["neighbours"]
        yield f"search {Path(str(asked)).name}", [(n["id"], n["distance"]) for n in near]

    table = [*of_all, "--combinations", "nested", "--holdout", 0.3, "--seeds", 2]
    for kind, flags in {
        "knn": [*table, "--k", 3],
        "knn weighted": [*table, "--k", 3, "--vote", "weighted", "--shots", 2],
        "linear": [*table, "--pca-dim", "none,8"],
        "cluster": [*of_all],
        "retrieval": [*of_all, "--queries", 10],
        "compare": [*of_all, "--holdout", 0.3, "--k", 3],
    }.items():
        done = checkout.fungi("eval", kind.split()[0], store, *flags)
        yield f"eval {kind}", [{key: score[key] for key in SCORES} for score in done["scores"]]

    train = ["--head", "vit-xs", "--epochs", 3, "--batch-size", 8, "--holdout", 0.3, "--seed", 3]
    checkout.fungi("train-loff", store, *of_all, *train, "--name", "ta", "--mixup", 0.2)
    folder = store / "heads" / MODEL / "ta"
    state = json.loads((folder / "state.json").read_text())
    tensors = sorted(load_file(folder / state["file"]).items())
    yield "head", [(name, tensor.shape, tensor.tobytes()) for name, tensor in tensors]
    done = checkout.fungi("eval", "loff", store, *of_all, "--head", "ta")
    yield "eval loff", done["scores"][0]["metrics"]
    predicted = checkout.fungi("predict", store, query, *of_all, "--head", "ta")
    yield "predict", predicted["predictions"][0]["probabilities"]
    exported = checkout.place / "features.npy"
    checkout.fungi("export", store, exported, *of_all, "--features", "embeddings,kl")
    yield "export", np.load(exported)


def _arrays(group: zarr.Group) -> Iterator[tuple[str, Any]]:
    for name, member in group.members(max_depth=None):
        if isinstance(member, zarr.Array):
            yield name, member


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the last bit; NaN equals NaN."""
    if isinstance(one, np.ndarray):
        theirs: NDArray[Any] = other
        is_alike = one.dtype == theirs.dtype and one.shape == theirs.shape
        return bool(is_alike and one.tobytes() == theirs.tobytes())
    return bool(one == other)


def main() -> None:
    """Compare this checkout with another one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument(
        "--per-class", type=int, default=PER_CLASS, help="images of each class, 4 or more"
    )
    options = parser.parse_args()
    weights = dinov2_vits14_weights()
    with TemporaryDirectory() as scratch:
        images = textile_subset(options.per_class, Path(scratch, "images"))
        ours = Checkout(ROOT, Path(scratch, "ours"))
        theirs = Checkout(options.other, Path(scratch, "theirs"))
        before = dict(results(theirs, images, weights))
        after = dict(results(ours, images, weights))
    differing = [name for name in before if not is_same(before[name], after.get(name))]
    for name, value in before.items():
        size = value.shape if isinstance(value, np.ndarray) else len(value)
        print(f"{'DIFFERS' if name in differing else 'same':8}{name} {size}")
    for name in after.keys() - before.keys():
        print(f"new     {name}")
    print(f"{len(before) - len(differing)} the same, {len(differing)} differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
