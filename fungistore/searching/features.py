"""Features of query images: the extraction that made the store's features, once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fungistore.blocks import FeatureMatrix, Vectors, blocks_of, normalize
from fungistore.errors import FungiError, ImageError, MismatchError, UsageError
from fungistore.extraction import ExtractOptions
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.freeze import array_configs, frozen_choices, make_features
from fungistore.extraction.loader import Work, load_batches
from fungistore.extraction.options import read_config
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.fingerprint import describe, differences
from fungistore.pca import Pca, load_pca
from fungistore.report import Reporter, stop_if_asked
from fungistore.searching.queries import FileQuery
from fungistore.store import Store, UnitArray

SETTINGS = "setups/{}/options.json"


@dataclass(frozen=True)
class QueryModel:
    """Everything that turns an image into a vector of a feature matrix.

    Attributes:
        maker: computes the features, with the frozen heads, negatives and projection.
        resolved: the settings that the store's features were made with.
        arrays: the array of each feature, whose type its values are rounded to.
        pca: applied to the normalised, concatenated features; None where none is.
        pca_array: the array of the PCA's coordinates, or None.
    """

    maker: FeatureMaker
    resolved: Resolved
    arrays: Mapping[str, UnitArray]
    pca: Pca | None
    pca_array: UnitArray | None

    def vectors(
        self, queries: list[FileQuery], reporter: Reporter, stop: Callable[[], bool]
    ) -> Iterator[Vectors | FungiError]:
        """Yield the vector [d] of each query, or why it has none.

        Raises:
            StoppedError: `stop` asked for it.
        """
        features = frozenset(self.arrays)
        size = self.resolved.batch_size

        def works() -> Iterator[Work]:
            for start in range(0, len(queries), size):
                rows = [
                    {"row": start + i, "id": query.views, "root": query.root, "uri": query.uri}
                    for i, query in enumerate(queries[start : start + size])
                ]
                yield Work(0, rows, features, last=False)

        reporter.begin("query images", len(queries))
        for batch in load_batches(works(), self.maker.draw, self.resolved.workers):
            stop_if_asked(stop)
            failed = {failure.row: failure.message for failure in batch.failures}
            vectors = self._finish(self.maker.compute(batch.drawn, features))
            for row, vector in zip(batch.work.rows, vectors, strict=True):
                text = queries[row["row"]].text
                reporter.advance(1)
                if row["row"] in failed:
                    yield ImageError(failed[row["row"]], where=text)
                elif not np.isfinite(vector).all():
                    yield FungiError("the features of an image are not finite", where=text)
                else:
                    yield vector
        reporter.end()

    def _finish(self, computed: Mapping[str, Vectors]) -> Vectors:
        """Round to what the store keeps, normalise, concatenate, and apply the PCA."""
        blocks = []
        for array in self.arrays.values():
            block = _rounded(computed[_name_in_set(array)], array)
            normalize(block)
            blocks.append(block)
        vectors = np.concatenate(blocks, axis=1)
        if self.pca is None or self.pca_array is None:
            return vectors
        return _rounded(self.pca.transform(vectors), self.pca_array)


def query_model(
    store: Store, matrix: FeatureMatrix, pca: str | None, *, weights: str | None, device: str
) -> QueryModel:
    """Rebuild, from what was frozen, what made a matrix's features.

    Args:
        store: the store.
        matrix: the features of the index.
        pca: name of the PCA that the index is over, or None.
        weights: a weights file, where the one that was used has moved.
        device: "auto", or where to run the model.

    Raises:
        UsageError: the weights, or the device, are not there, or the features were imported.
        MismatchError: the weights, or what else decides the features, are not the same any more.
        StoreError: a frozen setup is missing or damaged.
    """
    fitted = load_pca(store, matrix.feature_set, pca) if pca else None
    features = fitted.features if fitted else matrix.features
    blocks = blocks_of(store.arrays(matrix.feature_set))
    if gone := [feature for feature in features if feature not in blocks]:
        raise MismatchError(
            "features that a query image needs are gone",
            where=f"feature set {matrix.feature_set!r} of {store.root}",
            expected=", ".join(features),
            found=f"no {', '.join(gone)}",
            hint="fungi extract --features makes them; sample ids can be searched without",
        )
    arrays = {feature: blocks[feature] for feature in features}
    if fitted:
        _refuse_other_inputs(store, matrix, arrays)
    options = _options(store, arrays, weights, device)
    resolved = resolve(options, frozen_choices(store, matrix.feature_set))
    _refuse_mismatch(store, resolved, arrays)
    gradients = resolved.gradient_features
    tensors = {name: store.setup_tensors(arrays[name].fingerprint, "tensors") for name in gradients}
    return QueryModel(
        maker=make_features(resolved, tensors),
        resolved=resolved,
        arrays=arrays,
        pca=fitted,
        pca_array=store.arrays(matrix.feature_set)[matrix.features[0]] if fitted else None,
    )


def _options(
    store: Store, arrays: Mapping[str, UnitArray], weights: str | None, device: str
) -> ExtractOptions:
    """Join the options that each feature was frozen with.

    Features that were extracted one by one have options of their own. Those of a feature with
    views say most, then those of a gradient; embeddings alone depend on no seed and no view.
    """
    options: dict[str, ExtractOptions] = {}
    for feature, array in arrays.items():
        path = store.root / SETTINGS.format(array.fingerprint)
        if not path.is_file():
            raise UsageError(
                "the model that made the features is not known, so images cannot be queries",
                where=f"{feature} of {array.name}",
                expected=f"{SETTINGS.format(array.fingerprint)}, as fungi extract writes it",
                found="no such file: features that were imported have none",
                hint="search by sample id",
            )
        options[feature] = ExtractOptions.from_config(read_config(path))
    setups = {feature: store.setup(array.fingerprint) for feature, array in arrays.items()}
    most = max(arrays, key=lambda f: ("views" in setups[f], "gradient" in setups[f]))
    objectives = {
        name: options[name if name in options else most].objectives[name]
        for name in options[most].objectives
    }
    return replace(
        options[most],
        features=tuple(arrays),
        feature_set=None,
        objectives=objectives,
        weights=weights or options[most].weights,
        device=device,
    )


def _refuse_mismatch(store: Store, resolved: Resolved, arrays: Mapping[str, UnitArray]) -> None:
    """Compare what would be computed now with what the store's features were made with."""
    fields: dict[str, tuple[Any, Any]] = {}
    for feature, config in array_configs(resolved).items():
        stored = store.setup(arrays[feature].fingerprint)
        fields |= differences(stored, config, common=True)
    if fields:
        source = resolved.options.weights or f"timm's {resolved.options.model}"
        raise MismatchError(
            "query images would not get the features that the store has",
            where=store.root,
            expected="the model and settings that the features were extracted with",
            found=f"{describe(fields)}\n    with the weights of {source}",
            hint="--weights FILE names the weights that were used; sample ids need no model",
        )


def _refuse_other_inputs(
    store: Store, matrix: FeatureMatrix, arrays: Mapping[str, UnitArray]
) -> None:
    """Refuse a PCA of features that were extracted anew since."""
    (key,) = matrix.fingerprints.values()
    stored = store.setup(key)["pca"]["inputs"]
    now = {array.name: array.fingerprint for array in arrays.values()}
    fields = differences(stored, now, common=False)
    if fields:
        raise MismatchError(
            "the features that the PCA was fitted to were extracted anew since",
            where=matrix.name,
            found=describe(fields),
            hint="fit it again with fungi pca --restart, and index it with fungi index --restart",
        )


def _rounded(vectors: Vectors, array: UnitArray) -> Vectors:
    """Return values as they read back from an array: float16 loses digits, or overflows."""
    with np.errstate(over="ignore"):
        return vectors.astype(array.array.dtype).astype(np.float32)


def _name_in_set(array: UnitArray) -> str:
    return array.name.split("/", 1)[1]
