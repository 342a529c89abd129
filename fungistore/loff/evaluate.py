"""`fungi eval loff`: heads on the test rows that they have not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from fungistore.errors import UsageError
from fungistore.evaluation.confusion import save_confusion
from fungistore.evaluation.metrics import classification_metrics, over_runs
from fungistore.evaluation.options import LoffOptions
from fungistore.evaluation.ordered import ranks_for
from fungistore.evaluation.plots import check_plot
from fungistore.evaluation.result import Evaluation, Score
from fungistore.fingerprint import Config
from fungistore.loff.scoring import probabilities, ranked
from fungistore.loff.stored import StoredHead, find_heads, head_rows, open_head
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.device import resolve_device
from fungistore.store.contents import Contents, content_of
from fungistore.store.store import Store

BATCH_ROWS = 64


@dataclass(frozen=True, repr=False)
class LoffEvaluation(Evaluation):
    """Scores of heads, and where the last group of them errs.

    Attributes:
        classes: names of the classes.
        confusion: test rows by true class (first) and predicted class, summed over the heads of
            the last score.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


def evaluate_loff(
    store: str | Path,
    options: LoffOptions = LoffOptions(),
    *,
    context: Context = DEFAULT,
) -> LoffEvaluation:
    """Test heads; those that one pattern names, such as seeds of one setting, are averaged.

    Metrics: accuracy, mean recall (`mean_per_class_accuracy`), ROC-AUC of two classes, quadratic
    kappa where the head was trained with an order of the classes, or by that metric. Test rows are
    those that the head's own split has left out, never augmented.

    Args:
        store: the store's directory.
        options: names of heads, or patterns such as "ta-*", each a score, and where they run.
        context: its reporter is told what happens, its stop asked between heads.

    Raises:
        UsageError: there is no such head.
        MismatchError: features or rows are not those of its training any more.
    """
    LoffOptions.accept(options)
    if options.plot is not None:
        check_plot(options.plot)
    opened = Store.open(store, keep_removed=options.keep_removed)
    place = resolve_device(options.device)
    patterns = options.heads or (None,)
    groups = [find_heads(opened, pattern, options.feature_set) for pattern in patterns]
    scores, protocol, excluded = [], [], {}
    splits: dict[str, Config] = {}
    remarks: list[str] = []
    confusion = np.zeros((0, 0), np.int64)
    classes: tuple[str, ...] = ()
    context.reporter.begin("heads", sum(len(names) for _, names in groups))
    for pattern, (chosen, names) in zip(patterns, groups, strict=True):
        title = names[0] if len(names) == 1 else f"{pattern} ({len(names)})"
        measured, tested, contents = [], [], {}
        confusion = np.zeros((0, 0), np.int64)
        for name in names:
            context.stop_if_asked()
            stored = open_head(opened, chosen, name)
            data = head_rows(opened, stored)
            remarks += filter(None, [data.split.remark()])
            splits[name] = data.split.description
            contents = {array.name: content_of(array) for array in stored.arrays.values()}
            if stored.is_stale:
                context.reporter.notice(
                    f"head {name!r} was trained on rows that were made anew since; "
                    "train it again: fungi train-loff with --restart"
                )
            truth = data.labels[data.split.test]
            loader = stored.loader(data.split.test, BATCH_ROWS, place)
            stored.head.to(place)
            said = probabilities(stored.head, loader, pool=stored.pool, dtype=stored.dtype)
            predictions = ranked(said)
            metrics = classification_metrics(
                truth,
                predictions,
                said.shape[1],
                ranks_for(stored.metric, data.names, stored.order),
            )
            table = _confusion(truth, predictions.labels, said.shape[1])
            confusion = table if not len(confusion) else confusion + table
            classes, excluded = data.names, data.excluded
            measured.append(metrics)
            tested.append((stored, len(data.split.train), len(truth)))
            context.reporter.advance(1)
        scores.append(_averaged(tested, measured, title, contents))
        protocol.append({one.name: one.fingerprint for one, _, _ in tested})
    context.reporter.end()
    for remark in dict.fromkeys(remarks):
        context.reporter.notice(remark)
    if options.plot is not None:
        save_confusion(classes, confusion.tolist(), options.plot)
        context.reporter.notice(f"plot: {options.plot}")
    return LoffEvaluation(
        kind="loff",
        store=opened.where,
        feature_set=groups[0][0],
        protocol={"heads": protocol, "splits": splits, "augmentation": "none at test time"},
        excluded=excluded,
        scores=tuple(scores),
        classes=classes,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def _averaged(
    tested: list[tuple[StoredHead, int, int]],
    measured: list[dict[str, float]],
    title: str,
    contents: Contents,
) -> Score:
    """Average the metrics of heads that differ in their seed."""
    stored, n_train, n_test = tested[-1]
    if len({one.head.spec for one, _, _ in tested}) > 1:
        raise UsageError(
            "heads of different kinds cannot be averaged",
            found=", ".join(one.name for one, _, _ in tested),
            hint="give --head once for each kind",
        )
    metrics, spread = over_runs(measured, n_test)
    return Score(
        features=stored.head.spec.features,
        dim=stored.head.spec.in_dim,
        n_train=n_train,
        n_test=n_test,
        metrics=metrics,
        spread=spread,
        protocol={"heads": title},
        fingerprints={array.name: array.fingerprint for array in stored.arrays.values()},
        contents=contents,
    )


def _confusion(
    truth: NDArray[np.int32], predicted: NDArray[np.int32], classes: int
) -> NDArray[np.int64]:
    table: NDArray[np.int64] = confusion_matrix(truth, predicted, labels=np.arange(classes))
    return table
