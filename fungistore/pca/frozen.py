"""What `fungi pca` freezes beside a store's coordinates, and reads back: the map that made them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.choices import ReductionKind
from fungistore.errors import StoreError
from fungistore.fingerprint import Config
from fungistore.pca.components import Pca
from fungistore.pca.random_map import RandomMap
from fungistore.store.samples import Rows
from fungistore.store.store import Store

TENSORS = "pca"


def kind_of(config: Config) -> ReductionKind:
    """Return what a setup's configuration is of; one that does not say it is a PCA's."""
    kind: ReductionKind = config["pca"].get("reduction", "pca")
    return kind


def tensors_of(fitted: Pca | RandomMap, rows: Rows, samples: int) -> dict[str, NDArray[Any]]:
    """Return what is stored of a map, and which of a store's samples it has seen."""
    seen = np.zeros(samples, bool)
    seen[rows] = True
    found: dict[str, NDArray[Any]] = {
        "components": fitted.components,
        "fit_rows": np.packbits(seen),
    }
    if isinstance(fitted, Pca):
        found |= {
            "mean": fitted.mean,
            "explained_variance": fitted.explained_variance,
            "total_variance": np.array(fitted.total_variance),
            "n_samples": np.array(fitted.n_samples),
        }
    return found


def load(store: Store, key: str) -> Pca | RandomMap:
    """Return the map of a setup.

    Raises:
        StoreError: it is damaged.
    """
    tensors, config = store.setups.tensors(key, TENSORS), store.setups.config(key)
    try:
        features = tuple(config["pca"]["features"])
        if kind_of(config) == "random":
            return RandomMap(features, tensors["components"])
        return Pca(
            features=features,
            mean=tensors["mean"],
            components=tensors["components"],
            explained_variance=tensors["explained_variance"],
            total_variance=tensors["total_variance"].item(),
            n_samples=tensors["n_samples"].item(),
        )
    except (KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise StoreError("a fitted PCA is damaged", where=key, found=found) from error
