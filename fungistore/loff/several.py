"""Heads that differ in their seeds: trained in turn, or by the workers of an engine, one each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fungistore.engines.engine import DividedWork, Engine, Place, RunSlice
from fungistore.engines.pieces import ALONE, is_alone, place_of
from fungistore.evaluation.intervals import over_runs
from fungistore.fingerprint import Config
from fungistore.loff.head_folder import head_run
from fungistore.loff.options import HeadsOptions, TrainOptions
from fungistore.loff.train import TrainResult, head_kind, head_name, train_loff
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.device import resolve_device
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.locks import Slice
from fungistore.store.store import Store

RESULTS = TypeAdapter(tuple[TrainResult, ...])


@dataclass(frozen=True)
class HeadsResult:
    """What several trainings came to.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        name: what the heads' names begin with.
        heads: each training, by its seed.
        validation: the mean of each metric over the heads and, of two heads or more, its standard
            deviation as `NAME_deviation`.
    """

    store: str
    feature_set: str
    name: str
    heads: tuple[TrainResult, ...]
    validation: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def train_heads(
    store: str | Path,
    options: HeadsOptions,
    *,
    restart: bool = False,
    engine: Engine = ALONE,
    context: Context = DEFAULT,
) -> HeadsResult:
    """Train heads of several seeds, each as `train_loff` does, continuing where each stopped.

    Args:
        store: the store's directory.
        options: what to train, and how many.
        restart: first delete the heads of these names.
        engine: who trains which; `Local()` one after the other.
        context: its reporter is told what happens, its stop asked between steps; a checkpoint is
            written before the run ends.

    Raises:
        UsageError, MismatchError, StoppedError, FungiError: as `train_loff`, of one of them.
    """
    opened = Store.open(store, keep_removed=options.keep_removed)
    alone = is_alone(engine)
    kind = head_kind(options, resolve_device(options.device))
    options = replace(options, head=kind, name=head_name(options, kind))
    each = options.of_each(str(options.name))
    if restart:
        _remove(opened, each, context)
    if alone:
        done = tuple(train_loff(store, one, context=context) for one in each)
    else:
        place = place_of(opened)
        arguments = {"store": place, "options": options.to_config()}
        function = f"{__name__}:{open_heads.__name__}"
        work = DividedWork(function, arguments, store=place, units=len(each))
        results = [result["heads"] for result in engine.run(work, context)]
        found = {one.name: one for some in results for one in RESULTS.validate_python(some)}
        done = tuple(replace(found[str(one.name)], store=opened.where) for one in each)
    validation, _ = over_runs([one.validation for one in done], {})
    return HeadsResult(opened.where, done[0].feature_set, str(options.name), done, validation)


def open_heads(arguments: Config, place: Place, context: Context) -> RunSlice:
    """Return what trains the heads of a slice, in a worker."""
    options = HeadsOptions.from_config(arguments["options"])
    options = replace(options, device=place.device or options.device)
    each = options.of_each(str(options.name))

    def run(part: Slice) -> Config:
        mine = [one for number, one in enumerate(each) if number in part]
        done = tuple(train_loff(arguments["store"], one, context=context) for one in mine)
        return {"heads": RESULTS.dump_python(done, mode="json")}

    return run


def _remove(store: Store, heads: tuple[TrainOptions, ...], context: Context) -> None:
    """Delete heads of these names, before anybody trains them anew."""
    feature_set = choose_feature_set(store, heads[0].feature_set)
    for one in heads:
        run = head_run(store, feature_set, str(one.name))
        with store.writing(run.folder.key):
            if run.config() is not None:
                context.reporter.notice(f"--restart: deleting head {one.name!r}")
            run.remove()
