"""Vectors of query items: the extraction that made the store's features, and what follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import FungiError, MismatchError
from fungistore.extraction.options import ReplayChoice
from fungistore.extraction.replay import Replay, replay_extraction, rounded
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors, normalize
from fungistore.pca.components import Pca
from fungistore.pca.random_map import RandomMap
from fungistore.pca.stage import load_pca
from fungistore.searching.queries import ItemQuery
from fungistore.store.feature import vectors_of
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


@dataclass(frozen=True)
class QueryModel:
    """Everything that turns an item into a vector of a feature matrix.

    Attributes:
        replay: the extraction.
        pca: applied to the normalised, concatenated features; None where none is.
        pca_array: the array of the PCA's coordinates, or None.
    """

    replay: Replay
    pca: Pca | RandomMap | None
    pca_array: UnitArray | None

    def vectors(self, queries: list[ItemQuery], context: Context) -> Iterator[Vectors | FungiError]:
        """Yield the vector [d] of each query, or why it has none.

        Raises:
            StoppedError: `context` asked for it.
        """
        for found in self.replay.features([*queries], context):
            yield found if isinstance(found, FungiError) else self._finish(found)

    def _finish(self, computed: Mapping[str, NDArray[np.float32]]) -> Vectors:
        """Normalise, concatenate, and apply the PCA."""
        blocks = [computed[name][None] for name in self.replay.arrays]
        for block in blocks:
            normalize(block)
        vectors = np.concatenate(blocks, axis=1)
        if self.pca is not None and self.pca_array is not None:
            vectors = rounded(self.pca.transform(vectors), self.pca_array)
        return vectors[0]


def query_model(
    store: Store,
    matrix: FeatureMatrix,
    pca: str | None,
    *,
    choice: ReplayChoice,
    context: Context,
) -> QueryModel:
    """Rebuild, from what was frozen, what made a matrix's features.

    Args:
        store: the store.
        matrix: the features of the index.
        pca: name of the PCA that the index is over, or None.
        choice: where the weights are, if the file has moved, and where to run the model.
        context: its reporter is told what may make a difference.

    Raises:
        UsageError: the weights, or the device, are not there, or the features were imported.
        MismatchError: the weights, or what else decides the features, are not the same any more.
        StoreError: a frozen setup is missing or damaged.
    """
    fitted = load_pca(store, matrix.feature_set, pca) if pca else None
    features = fitted.features if fitted else matrix.features
    blocks = vectors_of(store.arrays(matrix.feature_set))
    if gone := [feature for feature in features if feature not in blocks]:
        raise MismatchError(
            f"features that a query {store.modality.item} needs are gone",
            where=f"feature set {matrix.feature_set!r} of {store.where}",
            expected=", ".join(features),
            found=f"no {', '.join(gone)}",
            hint="fungi extract --features makes them; sample ids can be searched without",
        )
    arrays = {feature: blocks[feature] for feature in features}
    return QueryModel(
        replay=replay_extraction(store, matrix.feature_set, arrays, choice=choice, context=context),
        pca=fitted,
        pca_array=store.arrays(matrix.feature_set)[matrix.features[0]] if fitted else None,
    )
