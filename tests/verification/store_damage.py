"""What happens to files: flipped bits, truncations, swaps, edits; and what a store then holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fungistore.store.store import Store

Random = np.random.Generator


def files_of(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.is_file())


def flip_bit(path: Path, random: Random) -> str:
    data = bytearray(path.read_bytes())
    at = int(random.integers(len(data)))
    data[at] ^= 1 << int(random.integers(8))
    path.write_bytes(data)
    return f"bit of byte {at} of {path}"


def truncate(path: Path, random: Random) -> str:
    length = int(random.integers(path.stat().st_size))
    path.write_bytes(path.read_bytes()[:length])
    return f"{path} cut to {length} bytes"


def empty(path: Path, random: Random) -> str:
    path.write_bytes(b"")
    return f"{path} emptied"


def delete(path: Path, random: Random) -> str:
    path.unlink()
    return f"{path} deleted"


def swap(path: Path, random: Random) -> str:
    others = [p for p in files_of(path.parents[1], f"*/{path.name}") if p != path]
    other = others[int(random.integers(len(others)))]
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)
    return f"{path} and {other} swapped"


def edit(path: Path, random: Random) -> str:
    """Change one value of a JSON document, wherever in it."""
    document = json.loads(path.read_bytes())
    places = list(_places(document))
    holder, key = places[int(random.integers(len(places)))]
    old = holder[key]
    holder[key] = _other(old, random)
    path.write_text(json.dumps(document))
    return f"{key}: {old!r} -> {holder[key]!r} in {path}"


def _places(node: Any) -> list[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node))
    found: list[tuple[Any, Any]] = []
    for key in keys:
        value = node[key]
        if isinstance(value, dict | list) and value:
            found += _places(value)
        else:
            found.append((node, key))
    return found


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, bool) or value is None:
        return 1
    if isinstance(value, int | float):
        return value + int(random.choice([-1, 1, 8]))
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return "something"


CHUNKS, RECORDS = "features.zarr/*/**/c/**/*", "commits/**/*.json"
ANY_FILE = ("features.zarr/**/*", RECORDS, "setups/*/*", "samples.parquet/*", "store.json")
DAMAGES: list[tuple[Callable[[Path, Random], str], tuple[str, ...]]] = [
    (flip_bit, (CHUNKS, *ANY_FILE)),
    (truncate, (CHUNKS, *ANY_FILE)),
    (empty, (CHUNKS, *ANY_FILE)),
    (delete, (CHUNKS, "features.zarr/**/zarr.json")),
    (swap, ("features.zarr/*/embeddings/c/*/0", "features.zarr/*/gradients/kl/c/*/0")),
    (edit, (RECORDS, "features.zarr/**/zarr.json", "setups/*/*.json", "store.json")),
]


def damage(root: Path, random: Random) -> str:
    """Damage one random place of a store, and say which."""
    kind, patterns = DAMAGES[int(random.integers(len(DAMAGES)))]
    paths = files_of(root, patterns[int(random.integers(len(patterns)))])
    return kind(paths[int(random.integers(len(paths)))], random)


def contents(root: Path) -> dict[str, Any]:
    """Everything that a reader gets out of a store; raises where it cannot be read."""
    store = Store.open(root)
    held: dict[str, Any] = {"labels": store.manifest.labels}
    held["samples"] = store.samples.rows(0, len(store.samples))
    for feature_set in store.feature_sets():
        for name, array in store.arrays(feature_set).items():
            commits = array.commits()
            held[f"{feature_set}/{name}"] = {
                unit: array.read(unit * array.unit_rows, unit * array.unit_rows + commit.rows)
                for unit, commit in commits.items()
            }
            key = array.fingerprint
            held[f"setup {key}"] = store.setups.config(key)
            for path in files_of(root, f"setups/{key}/*.safetensors"):
                held[f"tensors {key}"] = store.setups.tensors(key, path.stem)
    return held


def are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(are_equal(one[k], other[k]) for k in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        # bytes, so that NaN equals itself
        return (
            one.shape == other.shape
            and one.dtype == other.dtype
            and one.tobytes() == other.tobytes()
        )
    return type(one) is type(other) and one == other


def copied(root: Path, place: Path) -> Path:
    shutil.copytree(root, place)
    return place
