"""`fungi eval loff`: heads on the test rows that they have not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from fungistore.errors import UsageError
from fungistore.evaluation.confusion import save_confusion
from fungistore.evaluation.intervals import Spread, metric_intervals, over_runs
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.ordered import asked_ranks, require_order
from fungistore.evaluation.plots import check_plot
from fungistore.evaluation.result import Evaluation, Score, Table
from fungistore.fingerprint import Config
from fungistore.loff.asked import AskedHead, ask_head, refuse_other_tests
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.head_folder import head_run
from fungistore.loff.scoring import mean_chances, ranked
from fungistore.loff.stored import find_heads
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.device import resolve_device
from fungistore.store.contents import content_of
from fungistore.store.store import Store
from fungistore.training.rates import (
    SPEED_COLUMNS,
    ClassifierSpeed,
    inference_speed,
    time_backbone,
    training_speed,
)


@dataclass(frozen=True, repr=False)
class LoffEvaluation(Evaluation):
    """Scores of heads, and where the last group of them errs.

    Attributes:
        classes: names of the classes.
        confusion: test rows by true class (first) and predicted class, summed over the heads of
            the last score.
        speed: of each score's heads.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    speed: tuple[ClassifierSpeed, ...]

    def details(self) -> tuple[Table, ...]:
        """Return how fast the heads are."""
        rows = [
            (str(score.protocol["heads"]), *speed.cells())
            for score, speed in zip(self.scores, self.speed, strict=True)
        ]
        return (Table(("speed of", *SPEED_COLUMNS), tuple(rows)),)


def evaluate_loff(
    store: str | Path,
    options: LoffOptions = LoffOptions(),
    *,
    context: Context = DEFAULT,
) -> LoffEvaluation:
    """Test heads; those that one pattern names, such as seeds of one setting, are averaged.

    Metrics: accuracy, mean recall (`mean_per_class_accuracy`), ROC-AUC of the second of two
    classes or of each against the others, and quadratic kappa where it is asked for, or the head
    was trained with an order of the classes or by that metric. Test rows are those that the head's
    own split has left out, as they are or averaged over their flips.

    Args:
        store: the store's directory.
        options: names of heads, or patterns such as "ta-*", each a score, and where they run.
        context: its reporter is told what happens, its stop asked between heads.

    Raises:
        UsageError: there is no such head, or heads cannot be averaged.
        MismatchError: features or rows are not those of its training any more.
    """
    LoffOptions.accept(options)
    if options.plot is not None:
        check_plot(options.plot)
    opened = Store.open(store, keep_removed=options.keep_removed)
    groups = []
    for pattern in options.heads or (None,):
        chosen, names = find_heads(opened, pattern, options.feature_set)
        title = names[0] if len(names) == 1 else f"{pattern} ({len(names)})"
        groups.append(HeadGroup(title, tuple((chosen, name) for name in names)))
    return evaluate_groups(opened, groups, options, context=context)


@dataclass(frozen=True)
class HeadGroup:
    """Heads that make one score.

    Attributes:
        title: what they are called together.
        heads: the feature set and the name of each.
    """

    title: str
    heads: tuple[tuple[str, str], ...]

    def names(self) -> tuple[str, ...]:
        """Return their names; those of several feature sets with these before them."""
        if len({feature_set for feature_set, _ in self.heads}) == 1:
            return tuple(name for _, name in self.heads)
        return tuple(f"{feature_set}/{name}" for feature_set, name in self.heads)


def evaluate_groups(
    store: Store, groups: Sequence[HeadGroup], options: LoffOptions, *, context: Context
) -> LoffEvaluation:
    """Test groups of heads, whatever names `options` has; see `evaluate_loff`."""
    place = resolve_device(options.device)
    lines: list[_Line] = []
    splits: dict[str, Config] = {}
    remarks: list[str] = []
    context.reporter.begin("heads", sum(len(group.heads) for group in groups))
    for group in groups:
        heads = []
        for feature_set, name in group.heads:
            context.stop_if_asked()
            heads.append(ask_head(store, feature_set, name, options.tta, place, context))
            context.reporter.advance(1)
        names = group.names()
        splits |= {name: one.data.split.description for name, one in zip(names, heads, strict=True)}
        remarks += filter(None, (one.data.split.remark() for one in heads))
        lines += _lines(dict(zip(names, heads, strict=True)), group.title, options)
    context.reporter.end()
    for remark in dict.fromkeys(remarks):
        context.reporter.notice(remark)
    speed = _speeds(store, lines, options, place, context)
    last = lines[-1]
    data = last.last.data
    if options.kappa or options.order:
        order = require_order(data.names, options.order or last.last.stored.order, "--kappa")
        context.reporter.notice(f"quadratic kappa with the classes as {' < '.join(order)}")
    if options.plot is not None:
        save_confusion(data.names, last.confusion.tolist(), options.plot)
        context.reporter.notice(f"plot: {options.plot}")
    return LoffEvaluation(
        kind="loff",
        store=store.where,
        feature_set=groups[0].heads[0][0],
        protocol={
            "heads": [
                {name: one.stored.fingerprint for name, one in line.heads.items()} for line in lines
            ],
            "splits": splits,
        }
        | _protocol(options),
        excluded=data.excluded,
        scores=tuple(line.score for line in lines),
        classes=data.names,
        confusion=tuple(map(tuple, last.confusion.tolist())),
        speed=speed,
    )


@dataclass(frozen=True)
class _Line:
    score: Score
    heads: dict[str, AskedHead]
    confusion: NDArray[np.int64]
    is_ensemble: bool

    @property
    def last(self) -> AskedHead:
        return [*self.heads.values()][-1]


def _lines(named: dict[str, AskedHead], title: str, options: LoffOptions) -> Iterator[_Line]:
    """Yield the mean score of heads that differ in their seed, and the score of their mean."""
    heads = [*named.values()]
    kinds = {one.stored.head.spec for one in heads}
    if len(kinds) > 1 and not options.ensemble:
        raise UsageError(
            "heads of different kinds cannot be averaged",
            found=", ".join(named),
            hint="give --head once for each kind; --ensemble averages what they say",
        )
    if len(kinds) == 1:
        yield _line(named, [one.said for one in heads], title, options)
    if options.ensemble:
        refuse_other_tests(heads)
        mean = mean_chances([one.said for one in heads])
        yield _line(named, [mean], f"{title}, ensemble", options, is_ensemble=True)


def _line(
    named: dict[str, AskedHead],
    said: list[NDArray[np.float32]],
    title: str,
    options: LoffOptions,
    *,
    is_ensemble: bool = False,
) -> _Line:
    """Score what was said: by each of the heads, or by all of them together."""
    heads = [*named.values()]
    last, spec = heads[-1], heads[-1].stored.head.spec
    classes = len(last.data.names)
    measured: list[dict[str, float]] = []
    confusion = np.zeros((classes, classes), np.int64)
    intervals: Spread = {}
    for one, chances in zip(heads, said, strict=False):
        names, stored, predictions = one.data.names, one.stored, ranked(chances)
        ranks = asked_ranks(options, stored.metric, names, stored.order)
        metrics = classification_metrics(one.truth, predictions, classes, ranks)
        confusion += confusion_matrix(one.truth, predictions.labels, labels=np.arange(classes))
        if len(said) == 1:
            intervals = metric_intervals(one.truth, predictions, metrics, ranks)
        measured.append(metrics)
    metrics, spread = over_runs(measured, intervals)
    arrays = {array.name: array for one in heads for array in one.stored.arrays.values()}
    score = Score(
        features=tuple(dict.fromkeys(name for one in heads for name in one.stored.arrays)),
        dim=spec.in_dim,
        n_train=len(last.data.split.train),
        n_test=len(last.truth),
        metrics=metrics,
        spread=spread,
        protocol={"heads": title},
        fingerprints={name: array.fingerprint for name, array in arrays.items()},
        contents={name: content_of(array) for name, array in arrays.items()},
    )
    return _Line(score, named, confusion, is_ensemble)


def _protocol(options: LoffOptions) -> Config:
    """Return what was asked for beyond the heads."""
    views = ", ".join(("the rows as they are", *options.tta))
    return {
        "augmentation": f"mean over {views}" if options.tta else "none at test time",
        **({"ensemble": "mean of probabilities"} if options.ensemble else {}),
        **({"kappa": list(options.order or ())} if options.kappa or options.order else {}),
    }


def _speeds(
    store: Store,
    lines: list[_Line],
    options: LoffOptions,
    place: torch.device,
    context: Context,
) -> tuple[ClassifierSpeed, ...]:
    """Return how fast the heads of each line are, after running their backbones if asked to."""
    backbones: dict[str, float] = {}
    speeds = []
    for line in lines:
        heads = [*line.heads.values()]
        stored = heads[0].stored
        if options.time_backbone is not None and stored.array.name not in backbones:
            rows = heads[0].data.split.test[: options.time_backbone]
            backbones[stored.array.name] = time_backbone(
                store, stored.feature_set, stored.arrays, rows, options, context
            )
        each = [one.seconds_per_row for one in heads]
        seconds = sum(each) if line.is_ensemble else sum(each) / len(each)
        inference = inference_speed(place, seconds, backbones.get(stored.array.name))
        runs = (head_run(store, one.stored.feature_set, one.stored.name) for one in heads)
        speeds.append(ClassifierSpeed(training_speed(runs), inference))
    return tuple(speeds)
