"""`fungi eval adapted`: an adapted backbone's own classifier, on embeddings that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.adaptation.evaluate_options import AdaptedOptions
from fungistore.adaptation.folder import TABLES
from fungistore.backbones.adapters.adaptation import Adaptation
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.intervals import Spread, metric_intervals, over_runs
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.ordered import asked_ranks
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.result import Evaluation, Score, Table
from fungistore.evaluation.task import labelled_rows
from fungistore.extraction.adapted import find_adaptation
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.seen import refuse_trained_on
from fungistore.matrices.splits import Split
from fungistore.store.backend import open_backend
from fungistore.store.contents import Content, content_of
from fungistore.store.coverage import coverage_of, read_rows
from fungistore.store.feature import EMBEDDINGS
from fungistore.store.folder import Folder
from fungistore.store.records import Records
from fungistore.store.removed import left_out
from fungistore.store.setups import OPTIONS
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.training.rates import (
    SPEED_COLUMNS,
    ClassifierSpeed,
    Timer,
    inference_speed,
    time_backbone,
    training_speed,
)
from fungistore.training.run_folder import RunFolder

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class _Tested:
    """An adaptation, and what it came to on one feature set."""

    adaptation: Adaptation
    array: UnitArray
    content: Content
    split: Split
    excluded: dict[str, int]
    metrics: dict[str, float]
    intervals: Spread
    seconds_per_row: float

    @property
    def run(self) -> RunFolder:
        """Where the adaptation is, and what was measured as it was trained."""
        return RunFolder(Folder(open_backend(self.adaptation.where)), "adaptation", TABLES)


@dataclass(frozen=True, repr=False)
class AdaptedEvaluation(Evaluation):
    """Scores of adapted backbones.

    Attributes:
        speed: of each score's backbones; `head` is the classifier on stored embeddings.
    """

    speed: tuple[ClassifierSpeed, ...]

    def details(self) -> tuple[Table, ...]:
        """Return how fast they are."""
        rows = [
            (str(score.protocol["adapted"]), *speed.cells())
            for score, speed in zip(self.scores, self.speed, strict=True)
        ]
        return (Table(("speed of", *SPEED_COLUMNS), tuple(rows)),)


def evaluate_adapted(
    store: str | Path,
    options: AdaptedOptions = AdaptedOptions(),
    *,
    context: Context = DEFAULT,
) -> AdaptedEvaluation:
    """Test adapted backbones by the linear classifiers that were trained with them.

    Feature sets that one pattern names, such as seeds of one method, are averaged. Test rows are
    those of the adaptation's own split, with its settings; none that it has seen is among them.

    Args:
        store: the store's directory.
        options: names of feature sets, or patterns such as "vit-vpt-*", each a score.
        context: its reporter is told what happens, its stop asked between feature sets.

    Raises:
        UsageError: there is no such feature set, or none that was made with an adaptation.
        MismatchError: the adaptation was trained anew since the features were made.
    """
    AdaptedOptions.accept(options)
    opened = Store.open(store, keep_removed=options.keep_removed)
    return evaluate_feature_sets(opened, _groups(opened, options), options, context=context)


def evaluate_feature_sets(
    store: Store,
    groups: Mapping[str, Sequence[str]],
    options: AdaptedOptions,
    *,
    context: Context,
) -> AdaptedEvaluation:
    """Test groups of feature sets, whatever names `options` has; see `evaluate_adapted`.

    Args:
        store: the store.
        groups: by title, the feature sets that make one score.
        options: what is told of them.
        context: its reporter is told what happens, its stop asked between feature sets.
    """
    scores, protocol, splits, speeds = [], [], {}, []
    excluded: Mapping[str, int] = {}
    remarks: list[str] = []
    context.reporter.begin("feature sets", sum(map(len, groups.values())))
    for title, names in groups.items():
        tested = []
        for name in names:
            context.stop_if_asked()
            tested.append(one := _test(store, name, options))
            splits[name], excluded = one.split.description, one.excluded
            remarks += filter(None, [one.split.remark()])
            context.reporter.advance(1)
        named = names[0] if len(names) == 1 else f"{title} ({len(names)})"
        scores.append(_averaged(tested, named))
        speeds.append(_speed(store, names[0], tested, options, context))
        protocol.append(
            {
                name: {"adaptation": one.adaptation.name, "digest": one.adaptation.digest}
                for name, one in zip(names, tested, strict=True)
            }
        )
    context.reporter.end()
    for remark in dict.fromkeys(remarks):
        context.reporter.notice(remark)
    kappa = {"kappa": list(options.order or ())} if options.kappa or options.order else {}
    return AdaptedEvaluation(
        kind="adapted",
        store=store.where,
        feature_set=next(iter(groups.values()))[0],
        protocol={"adapted": protocol, "splits": splits} | kappa,
        excluded=excluded,
        scores=tuple(scores),
        speed=tuple(speeds),
    )


def _groups(store: Store, options: AdaptedOptions) -> dict[str, list[str]]:
    """Return the feature sets of each pattern, of those that were made with an adaptation."""
    known = [name for name in store.feature_sets() if adapter_of(store, name) is not None]
    groups = {
        pattern: [name for name in known if fnmatchcase(name, pattern)]
        for pattern in options.feature_sets or known
    }
    for pattern, names in groups.items():
        if not names:
            raise _none_of(store, pattern, known)
    if not groups:
        raise _none_of(store, None, known)
    return groups


def _none_of(store: Store, pattern: str | None, known: list[str]) -> UsageError:
    called = "" if pattern is None else f" {pattern!r}"
    return UsageError(
        f"there is no feature set{called} of an adapted backbone",
        where=store.where,
        expected=", ".join(known) or "embeddings that fungi extract --adapter has made",
        found=", ".join(store.feature_sets()) or "no features",
        hint=f"fungi extract SOURCE {quote(store.where)} --model M --adapter NAME makes one",
    )


def adapter_of(store: Store, feature_set: str) -> Config | None:
    """Return what identifies the adapter of a feature set's embeddings; None: there is none."""
    array = store.arrays(feature_set).get(EMBEDDINGS)
    if array is None:
        return None
    adapter = store.setups.config(array.fingerprint).get("backbone", {}).get("adapter")
    return adapter if isinstance(adapter, dict) else None


def _test(store: Store, feature_set: str, options: AdaptedOptions) -> _Tested:
    """Test one feature set's adaptation."""
    array = store.arrays(feature_set)[EMBEDDINGS]
    adaptation = _adaptation_of(store, feature_set, array)
    made: Mapping[str, Any] = adaptation.config["options"]
    records = Records((array,))
    coverage = coverage_of((array,), records, len(store.samples), left_out(store))
    seed = made["seed"] if made.get("split_seed") is None else made["split_seed"]
    rows = labelled_rows(
        store, coverage, holdout=made["holdout"], seed=seed, group=made.get("group")
    )
    test = rows.split.test
    refuse_trained_on(store, array, [(adaptation.seen, adaptation.images)], test)
    truth, count = rows.labels[test], len(adaptation.classes)
    timer = Timer(torch.device("cpu"))
    said = _probabilities(adaptation, array, test)
    seconds = timer.seconds() / len(test)
    predictions = Predictions.of_probabilities(said, np.arange(count))
    ranks = asked_ranks(options, made["metric"], adaptation.classes, made.get("order"))
    metrics = classification_metrics(truth, predictions, count, ranks)
    intervals = metric_intervals(truth, predictions, metrics, ranks)
    content = content_of(array, None, records.of(array.name))
    return _Tested(
        adaptation, array, content, rows.split, rows.excluded, metrics, intervals, seconds
    )


def _speed(
    store: Store,
    feature_set: str,
    tested: list[_Tested],
    options: AdaptedOptions,
    context: Context,
) -> ClassifierSpeed:
    """Return how fast adapted backbones are, after running the first if that is asked for."""
    first, backbone = tested[0], None
    if options.time_backbone is not None:
        arrays, rows = {EMBEDDINGS: first.array}, first.split.test[: options.time_backbone]
        backbone = time_backbone(store, feature_set, arrays, rows, options, context)
    seconds = sum(one.seconds_per_row for one in tested) / len(tested)
    inference = inference_speed(torch.device("cpu"), seconds, backbone)
    return ClassifierSpeed(training_speed(one.run for one in tested), inference)


def _adaptation_of(store: Store, feature_set: str, array: UnitArray) -> Adaptation:
    """Return the adaptation that embeddings were made with.

    Raises:
        UsageError: it is gone.
        MismatchError: it is another one now, or its classes are not the store's.
    """
    asked = store.setups.document(array.fingerprint, OPTIONS).get("adapter")
    adaptation = find_adaptation(asked, store.backend)
    assert adaptation is not None  # the features are those of an adapter
    identity = adapter_of(store, feature_set)
    if fingerprint(adaptation.identity()) != fingerprint(identity or {}):
        raise MismatchError(
            "the adaptation was trained anew since the features were made",
            where=f"feature set {feature_set!r}",
            expected=identity,
            found=adaptation.identity(),
            hint="extract them again, with --restart, or under another --feature-set",
        )
    if adaptation.classes != tuple(store.manifest.labels):
        raise MismatchError(
            "the adaptation tells other classes apart than the store has",
            where=adaptation.where,
            expected=", ".join(store.manifest.labels),
            found=", ".join(adaptation.classes),
            hint="adapt anew: fungi adapt with --restart",
        )
    return adaptation


def _probabilities(
    adaptation: Adaptation, array: UnitArray, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return what the classifier says [n, c] of stored embeddings."""
    weight, bias = (adaptation.classifier[name].numpy() for name in ("weight", "bias"))
    said = np.empty((len(rows), len(weight)), np.float32)
    for start in range(0, array.rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, array.rows)
        here = slice(*np.searchsorted(rows, (start, stop)))
        if here.start < here.stop:
            vectors = read_rows(array, start, stop)[rows[here] - start]
            logits = vectors.astype(np.float32) @ weight.T + bias
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            said[here] = powers / powers.sum(axis=1, keepdims=True)
    return said


def _averaged(tested: list[_Tested], title: str) -> Score:
    last = tested[-1]
    n_test = len(last.split.test)
    metrics, spread = over_runs([one.metrics for one in tested], last.intervals)
    return Score(
        features=(EMBEDDINGS,),
        dim=int(last.array.array.shape[1]),
        n_train=last.adaptation.config["rows"]["train"]["rows"],
        n_test=n_test,
        metrics=metrics,
        spread=spread,
        protocol={"adapted": title},
        fingerprints={one.array.name: one.array.fingerprint for one in tested},
        contents={one.array.name: one.content for one in tested},
    )
