"""Stores with given features and no model: what the later stages are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.choices import Codec
from fungistore.fingerprint import Config, digest_ids, fingerprint
from fungistore.sources.sample import Cell, CellType, Sample
from fungistore.store.chunks import layout_config
from fungistore.store.listing import add_source
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


class ListSource:
    """A source of given samples, whose images do not exist."""

    root = "/nowhere"

    def __init__(self, samples: Sequence[Sample], columns: Mapping[str, CellType] = {}) -> None:
        self._samples, self._columns = samples, columns

    def columns(self) -> Mapping[str, CellType]:
        return self._columns

    def label_names(self) -> list[str]:
        return sorted({sample.label for sample in self._samples if sample.label is not None})

    def __iter__(self):
        return iter(self._samples)


def make_store(
    root: Path,
    blocks: Mapping[str, NDArray[np.floating]],
    labels: Sequence[str | None],
    splits: Sequence[str | None] | None = None,
    *,
    feature_set: str = "set",
    unit_rows: int = 16,
    shard_units: int = 1,
    codec: Codec = "none",
    salt: int = 0,
    column: tuple[str, CellType, Sequence[Cell]] | None = None,
) -> Store:
    """Write a store whose rows are `blocks`: array name, such as "gradients/kl", to [n, d].

    A second call with more rows grows the store; another `salt` gives other fingerprints. Samples
    may have a `column` of their own: its name, its type, and a cell for each.
    """
    splits = splits or [None] * len(labels)
    samples = [
        Sample(f"{row:06d}.jpg", f"{row:06d}.jpg", label, split)
        for row, (label, split) in enumerate(zip(labels, splits, strict=True))
    ]
    columns = {}
    if column is not None:
        name, kind, cells = column
        columns = {name: kind}
        samples = [replace(one, cells=(cell,)) for one, cell in zip(samples, cells, strict=True)]
    store = Store.open_or_create(root)
    add_source(store, ListSource(samples, columns))
    for name, vectors in blocks.items():
        layout: Config = {"unit_rows": unit_rows, "shard_units": shard_units, "codec": codec}
        write_block(store, feature_set, name, vectors, salt=salt, **layout)
    return store


def write_block(
    store: Store,
    feature_set: str,
    name: str,
    vectors: NDArray[np.floating],
    *,
    unit_rows: int = 16,
    shard_units: int = 1,
    codec: Codec = "none",
    salt: int = 0,
) -> UnitArray:
    """Write one array of a feature set, all units committed."""
    array = store.arrays(feature_set).get(name)
    if array is None:
        config = {
            "schema": SCHEMA_VERSION[0],
            "layout": layout_config(unit_rows, shard_units, codec),
            "vectors": {"dtype": str(vectors.dtype)},
            "made": {"name": name, "salt": salt},
        }
        store.setups.freeze(config, {}, {})
        array = UnitArray.create(
            store.backend,
            f"{feature_set}/{name}",
            shape=vectors.shape,
            dtype=str(vectors.dtype),
            unit_rows=unit_rows,
            shard_units=shard_units,
            codec=codec,
            fingerprint=fingerprint(config),
        )
    array.grow(len(vectors))
    for unit in range(array.units):
        start = unit * unit_rows
        block = vectors[start : start + unit_rows]
        ids = digest_ids(row["id"] for row in store.samples.rows(start, start + len(block)))
        failed = int(np.isnan(block).reshape(len(block), -1).any(axis=1).sum())
        array.publish(unit, block, ids, failed)
    return array


def clustered(
    count: int, classes: int, dim: int, seed: int = 0, noise: float = 1.0
) -> tuple[NDArray[np.float32], list[str]]:
    """Return Gaussian classes: vectors [count, dim], and label names in turn."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dim))
    numbers = np.arange(count) % classes
    vectors = centres[numbers] + noise * random.normal(size=(count, dim))
    return vectors.astype(np.float32), [f"class {number}" for number in numbers]


class Notices:
    """A reporter that keeps what it is told."""

    def __init__(self, said):
        self.notice = said.append

    def begin(self, what, total, done=0):
        pass

    def advance(self, count):
        pass

    def end(self):
        pass
