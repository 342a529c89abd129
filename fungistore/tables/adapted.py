"""Rows of adapted backbones: their own classifiers, as `fungi eval adapted` tests them."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from fungistore.adaptation.evaluate import evaluate_feature_sets
from fungistore.adaptation.evaluate_options import AdaptedOptions
from fungistore.backbones.adapters.adaptation import ADAPTATIONS
from fungistore.fingerprint import fingerprint
from fungistore.machine.context import Context
from fungistore.store.feature import EMBEDDINGS
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.tables.kinds import Kinds, name_of
from fungistore.tables.methods import ADAPTED
from fungistore.tables.options import LoffTableOptions, common
from fungistore.tables.table import Cell, Found


def rows_of_adapted(store: Store, options: LoffTableOptions, context: Context) -> Iterator[Found]:
    """Yield a row for the adaptations that differ in seeds alone, or that a line names."""
    kinds = Kinds(store, context)
    groups: dict[tuple[str | None, str], dict[str, UnitArray]] = {}
    for array in _embeddings(store, kinds):
        key = fingerprint(kinds.of_features(array))
        for title in _titles(options, kinds.name(array)):
            groups.setdefault((title, key), {})[array.fingerprint] = array  # once each
    for (title, _), found in groups.items():
        yield _row(store, title, [*found.values()], kinds, options, context)


def _embeddings(store: Store, kinds: Kinds) -> Iterator[UnitArray]:
    """Yield the embeddings of each feature set whose adaptation is at hand."""
    for feature_set in store.feature_sets():
        array = store.arrays(feature_set).get(EMBEDDINGS)
        if array is not None and kinds.adaptation(array) is not None:
            yield array


def _titles(options: LoffTableOptions, name: str) -> list[str | None]:
    """Return the titles of the lines that an adaptation is in; without lines, it needs none."""
    if not options.lines:
        return [None]
    lines = (line.split("=", 1) for line in options.lines)
    start = f"{ADAPTATIONS}/"
    return [t for t, p in lines if p.startswith(start) and fnmatchcase(f"{start}{name}", p)]


def _row(
    store: Store,
    title: str | None,
    arrays: list[UnitArray],
    kinds: Kinds,
    options: LoffTableOptions,
    context: Context,
) -> Found:
    """Test adaptations together."""
    sets = [array.name.partition("/")[0] for array in arrays]
    names = tuple(kinds.name(array) for array in arrays)
    asked = AdaptedOptions(**common(options))
    done = evaluate_feature_sets(store, {name_of(sets): sets}, asked, context=context)
    done.save(context)
    method = str((kinds.adapter(arrays[0]) or {})["method"])
    features, image_size = kinds.backbone(arrays[0])
    (score,), (speed,) = done.scores, done.speed
    return Found(
        features=features,
        method=title or ADAPTED.get(method, method),
        image_size=image_size,
        name=name_of(names),
        feature_set=sets[0],
        cell=Cell(names, dict(score.metrics), dict(score.spread), score.n_test),
        speed=speed,
    )
