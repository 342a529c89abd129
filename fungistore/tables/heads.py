"""Rows of trained heads, as `fungi eval loff` tests them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fungistore.fingerprint import Config
from fungistore.loff.evaluate import HeadGroup, evaluate_groups
from fungistore.loff.evaluate_options import Flip, LoffOptions
from fungistore.loff.head_folder import head_names, head_run
from fungistore.loff.stored import open_head
from fungistore.machine.context import Context
from fungistore.store.store import Store
from fungistore.tables.kinds import Kinds, name_of
from fungistore.tables.methods import method_of
from fungistore.tables.options import LoffTableOptions, common
from fungistore.tables.table import Cell, Found

Trained = dict[tuple[str, str], Config]  # what heads were trained with, by feature set and name


def rows_of_heads(store: Store, options: LoffTableOptions, context: Context) -> Iterator[Found]:
    """Yield the rows of a store's heads: as they are, then ensembles and flips where asked for."""
    kinds = Kinds(store, context)
    for line in _lines(store, kinds, options):
        yield from _tested(store, line, kinds, options, context, tta=())
        if options.tta and line.has_grid:
            yield from _tested(store, line, kinds, options, context, tta=options.tta)


@dataclass(frozen=True)
class _Line:
    title: str | None
    name: str
    heads: Trained

    @property
    def has_grid(self) -> bool:
        return all(config["head"].get("grid") is not None for config in self.heads.values())


def _lines(store: Store, kinds: Kinds, options: LoffTableOptions) -> Iterator[_Line]:
    """Yield heads that belong into one row: those that a pattern names, or those of one kind."""
    trained = _trained(store)
    for title, pattern in (line.split("=", 1) for line in options.lines):
        named = {
            key: config
            for key, config in trained.items()
            if fnmatchcase(key[1], pattern) or fnmatchcase("/".join(key), pattern)
        }
        first = {feature_set: config for (feature_set, _), config in reversed(named.items())}
        alike = {one: kinds.of_inputs(one, config) for one, config in first.items()}
        for group in _grouped(named, {key: alike[key[0]] for key in named}):
            yield _Line(title, pattern, group)
    if not options.lines:
        for group in _grouped(
            trained, {key: kinds.of_head(key[0], c) for key, c in trained.items()}
        ):
            yield _Line(None, name_of([name for _, name in group]), group)


def _grouped(heads: Trained, keys: dict[tuple[str, str], str]) -> Iterator[Trained]:
    groups: dict[str, Trained] = {}
    for head, config in heads.items():
        groups.setdefault(keys[head], {})[head] = config
    yield from groups.values()


def _trained(store: Store) -> Trained:
    """Return what the heads of a store were trained with, of those that have an epoch."""
    runs = {
        (feature_set, name): head_run(store, feature_set, name)
        for feature_set in store.feature_sets()
        for name in head_names(store, feature_set)
    }
    return {
        key: config
        for key, run in runs.items()
        if run.progress().best_epoch is not None and (config := run.config()) is not None
    }


def _tested(
    store: Store,
    line: _Line,
    kinds: Kinds,
    options: LoffTableOptions,
    context: Context,
    *,
    tta: tuple[Flip, ...],
) -> Iterator[Found]:
    """Test the heads of a line; yield their mean, and the ensemble if it is asked for."""
    group = HeadGroup(line.name, tuple(line.heads))
    is_ensemble = options.ensemble and len(line.heads) > 1
    asked = LoffOptions(**common(options), ensemble=is_ensemble, tta=tta)
    done = evaluate_groups(store, [group], asked, context=context)
    done.save(context)
    (feature_set, name), config = next(iter(line.heads.items()))
    array = open_head(store, feature_set, name).array
    features, image_size = kinds.backbone(array)
    method = line.title or method_of(kinds.setup(array), config)
    views = f", {' and '.join(tta)} at test time" if tta else ""
    for score, speed in zip(done.scores, done.speed, strict=True):
        ending = str(score.protocol["heads"]).removeprefix(line.name)  # ", ensemble", or nothing
        yield Found(
            features=features,
            method=method + views + ending,
            image_size=image_size,
            name=line.name,
            feature_set=feature_set,
            cell=Cell(group.names(), dict(score.metrics), dict(score.spread), score.n_test),
            speed=speed,
        )
