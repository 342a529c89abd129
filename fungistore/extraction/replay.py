"""The extraction that made a store's features, once more, for items that are not in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.backbones.families import spelled_model
from fungistore.errors import FungiError, MismatchError, UsageError
from fungistore.extraction.adapted import find_adaptation
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.freeze import array_configs, frozen_choices, frozen_features
from fungistore.extraction.loader import load_batches
from fungistore.extraction.options import ExtractOptions, ReplayChoice
from fungistore.extraction.plan import BatchPlan
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.extraction.versions import say_other_versions
from fungistore.fingerprint import describe, differences
from fungistore.machine.context import Context
from fungistore.modalities.modality import with_article
from fungistore.sources.sample import NamedItem
from fungistore.store.feature import objective_name
from fungistore.store.setups import OPTIONS
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


@dataclass(frozen=True)
class Replay:
    """Everything that turns an item into the features that a store would have of it.

    Attributes:
        maker: computes the features, with the frozen heads, banks and projection.
        resolved: the settings that the store's features were made with.
        arrays: the array of each feature, whose type its values are rounded to.
    """

    maker: FeatureMaker
    resolved: Resolved
    arrays: Mapping[str, UnitArray]

    def features(
        self, items: Sequence[NamedItem], context: Context
    ) -> Iterator[dict[str, NDArray[np.float32]] | FungiError]:
        """Yield the features of each item by name, or why it has none.

        Raises:
            StoppedError: `context` asked for it.
        """
        features, modality = frozenset(self.arrays), self.resolved.modality
        size = self.resolved.batch_size

        def plans() -> Iterator[BatchPlan]:
            for start in range(0, len(items), size):
                rows = [
                    {"row": start + i, "id": item.views, "root": item.root, "uri": item.uri}
                    for i, item in enumerate(items[start : start + size])
                ]
                yield BatchPlan(0, rows, features, last=False)

        context.reporter.begin(modality.items, len(items))
        for batch in load_batches(plans(), self.maker, self.resolved.workers):
            context.stop_if_asked()
            failed = {failure.row: failure.message for failure in batch.failures}
            computed = self.maker.compute(batch.drawn, features)
            stored = {
                name: rounded(computed[array.feature.path], array)
                for name, array in self.arrays.items()
            }
            for place, row in enumerate(batch.plan.rows):
                text = items[row["row"]].text
                found = {name: rows[place] for name, rows in stored.items()}
                context.reporter.advance(1)
                if row["row"] in failed:
                    yield modality.error(failed[row["row"]], where=text)
                elif not all(np.isfinite(values).all() for values in found.values()):
                    what = f"the features of {with_article(modality.item)} are not finite"
                    yield FungiError(what, where=text)
                else:
                    yield found
        context.reporter.end()


def replay_extraction(
    store: Store,
    feature_set: str,
    arrays: Mapping[str, UnitArray],
    *,
    choice: ReplayChoice,
    context: Context,
) -> Replay:
    """Rebuild, from what was frozen, what made some features.

    Args:
        store: the store.
        feature_set: of the arrays.
        arrays: by the name of their feature, such as "kl" or "patches".
        choice: where the weights are, if the file has moved, and where to run the model.
        context: its reporter is told of other versions of what reads and computes.

    Raises:
        UsageError: the weights, or the device, are not there, or the features were imported.
        MismatchError: the weights, or what else decides the features, are not the same any more.
        StoreError: a frozen setup is missing or damaged.
    """
    options = _options(store, arrays, choice)
    context.reporter.notice(f"loading {spelled_model(options.model)}")
    adaptation = find_adaptation(options.adapter, store.backend)
    resolved = resolve(options, frozen_choices(store, feature_set), adaptation)
    _refuse_mismatch(store, resolved, arrays)
    fingerprints = {name: array.fingerprint for name, array in arrays.items()}
    say_other_versions(store.setups, fingerprints.values(), context.reporter)
    return Replay(frozen_features(resolved, store, fingerprints), resolved, arrays)


def rounded(values: NDArray[np.float32], array: UnitArray) -> NDArray[np.float32]:
    """Return values as they read back from an array: float16 loses digits, or overflows."""
    with np.errstate(over="ignore"):
        return values.astype(array.array.dtype).astype(np.float32)


def _options(store: Store, arrays: Mapping[str, UnitArray], choice: ReplayChoice) -> ExtractOptions:
    """Join the options that each feature was frozen with.

    Features that were extracted one by one have options of their own. Those of a feature with
    views say most, then those of a gradient; embeddings alone depend on no seed and no view.
    """
    options: dict[str, ExtractOptions] = {}
    for feature, array in arrays.items():
        setup = store.setups.folder(array.fingerprint)
        if not setup.has(OPTIONS):
            raise UsageError(
                f"the model that made the features is not known, so new {store.modality.items} "
                "cannot get them",
                where=f"{feature} of {array.name}",
                expected=f"{setup.key}/{OPTIONS}, as fungi extract writes it",
                found="no such file: features that were imported have none",
                hint="samples of the store need no model",
            )
        document = store.setups.document(array.fingerprint, OPTIONS)
        others = {*map(objective_name, document["features"])} - {objective_name(feature)}
        # those of a plug-in may be gone
        alone = {key: value for key, value in document.items() if key not in others}
        options[feature] = ExtractOptions.from_config(alone | {"features": [feature]})
    setups = {feature: store.setups.config(array.fingerprint) for feature, array in arrays.items()}
    most = max(arrays, key=lambda f: ("views" in setups[f], "gradient" in setups[f]))
    objectives = dict(options[most].objectives)
    for feature, own in options.items():
        objectives |= {
            name: one for name, one in own.objectives.items() if name == objective_name(feature)
        }
    return replace(
        options[most],
        features=tuple(arrays),
        feature_set=None,
        objectives=objectives,
        weights=choice.weights or options[most].weights,
        trust_code=choice.trust_code,
        device=choice.device,
    )


def _refuse_mismatch(store: Store, resolved: Resolved, arrays: Mapping[str, UnitArray]) -> None:
    """Compare what would be computed now with what the store's features were made with."""
    fields: dict[str, tuple[Any, Any]] = {}
    for feature, config in array_configs(resolved).items():
        stored = store.setups.config(arrays[feature].fingerprint)
        fields |= differences(stored, config, common=True)
    if fields:
        source = resolved.options.weights or f"timm's {resolved.options.model}"
        raise MismatchError(
            f"{resolved.modality.items} would not get the features that the store has",
            where=store.where,
            expected="the model and settings that the features were extracted with",
            found=f"{describe(fields)}\n    with the weights of {source}",
            hint="--weights FILE names the weights that were used",
        )
