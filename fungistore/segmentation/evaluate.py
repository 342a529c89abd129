"""`fungi eval segment`: masks predicted from a memory bank, against those that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.annotations.masks import Masks, open_masks
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation.result import Evaluation, Score, Table
from fungistore.fingerprint import Config
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.seen import refuse_seen
from fungistore.matrices.splits import choose_split
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.segmentation.banks import Bank, open_bank
from fungistore.segmentation.pictures import nearest
from fungistore.segmentation.predict import label_maps, largest_class
from fungistore.segmentation.predict_options import SegmentationOptions
from fungistore.segmentation.refusals import refuse_few, refuse_other_classes
from fungistore.segmentation.scores import (
    MaskScores,
    confusion_of,
    interval_of,
    mask_scores,
    parts_of,
    resampled_miou,
)
from fungistore.store.removed import GONE
from fungistore.store.samples import Rows
from fungistore.store.store import Store

PARTS_BYTES = 256_000_000  # of what is kept of each image for an interval
CLASSES_SHOWN = 40


@dataclass(frozen=True)
class ClassIou:
    """One class of the masks.

    Attributes:
        name: of the class.
        pixels: part of the judged pixels that is of it.
        iou: by each score, intersection over union; None where the class is neither in the truth
            nor predicted.
    """

    name: str
    pixels: float
    iou: tuple[float | None, ...]


@dataclass(frozen=True, repr=False)
class SegmentationEvaluation(Evaluation):
    """Scores of banks, and of each class.

    Attributes:
        classes: in the order of the masks' numbers.
    """

    classes: tuple[ClassIou, ...]

    def details(self) -> tuple[Table, ...]:
        """Return the IoU of each class; of very many, those with the highest and the lowest."""
        there = [one for one in self.classes if any(iou is not None for iou in one.iou)]
        cut = len(there) - CLASSES_SHOWN
        if cut > 0:
            there.sort(key=lambda one: -(one.iou[-1] or 0))
        rows = [(one.name, *map(_percent, (one.pixels, *one.iou))) for one in there]
        if cut > 0:
            half = CLASSES_SHOWN // 2
            blank = [""] * (1 + len(self.scores))
            rows[half:-half] = [(f"... {cut} more (--json has them)", *blank)]
        banks = [str(score.protocol["bank"]) for score in self.scores]
        return (Table(("IoU of class", "pixels", *banks), tuple(rows)),)


@dataclass(frozen=True)
class _Task:
    """Which images are tested on.

    Attributes:
        rows: ascending; each has a mask, and usable features in every bank.
        split: where they come from.
        excluded: others of the split, by reason.
    """

    rows: Rows
    split: Config
    excluded: dict[str, int]


@dataclass(frozen=True)
class _Tally:
    """What one bank says of the test images.

    Attributes:
        confusion: pixels [classes, classes], true class first.
        resampled: mIoU of images that are drawn again; None where it would take too much memory,
            or classes are matched.
    """

    confusion: NDArray[np.int64]
    resampled: NDArray[np.float64] | None


def evaluate_segmentation(
    store: str | Path,
    options: SegmentationOptions = SegmentationOptions(),
    *,
    context: Context = DEFAULT,
) -> SegmentationEvaluation:
    """Predict the masks of the test images from memory banks, and score them.

    Metrics: `miou`, over the classes that occur in the truth or in the prediction of any image;
    `pixel_accuracy`; `mean_class_accuracy`; `frequency_weighted_iou`. Void pixels do not count.
    A single choice of images has a 95 % bootstrap interval of the direct mIoU over the test images,
    and so has its gain over the first bank; several choices have its standard deviation. Memory is
    bounded: images come unit by unit, masks one by one, and predictions are counted, not kept.

    Args:
        store: the store's directory.
        options: which banks, how they predict, and what they are compared with.
        context: its reporter is told what happens, its stop asked between images.

    Raises:
        UsageError: there are no masks, no bank, no test images with both, or more neighbours or
            shots than patches or images.
        MismatchError: a bank is of other classes than the masks, or has test images in it.
        StoreError: the store is damaged.
    """
    SegmentationOptions.accept(options)
    opened = Store.open(store, keep_removed=options.keep_removed)
    masks = open_masks(opened)
    banks = {
        bank.name: bank
        for name in options.banks or (None,)
        for bank in [open_bank(opened, name, options.feature_set)]
    }
    task = _test_rows(opened, masks, list(banks.values()), context)
    context.reporter.begin("images", len(banks) * len(options.runs) * len(task.rows))
    scores, tables, first = [], [], None
    for name, bank in banks.items():
        runs, known = [], bank
        for run in options.runs:
            if options.shots is not None:
                known = _few(bank, options, run.rows_seed)
            refuse_few(known, options)
            runs.append(_tally(known, task, masks, options, context))
        measured = [mask_scores(run.confusion, options.match) for run in runs]
        scores.append(_score(name, known, measured, runs, first, task))
        first = first or runs[0]
        tables.append(np.array([one.iou for one in measured]))
        pixels = runs[-1].confusion.sum(axis=1)
    context.reporter.end()
    return SegmentationEvaluation(
        kind="segment",
        store=opened.where,
        feature_set=next(iter(banks.values())).feature_set,
        protocol=_protocol(options, task, masks),
        excluded=task.excluded,
        scores=tuple(scores),
        classes=tuple(
            ClassIou(name, float(share), tuple(_mean(table[:, label]) for table in tables))
            for label, (name, share) in enumerate(
                zip(masks.classes, pixels / max(pixels.sum(), 1), strict=True)
            )
        ),
    )


def _test_rows(store: Store, masks: Masks, banks: Sequence[Bank], context: Context) -> _Task:
    """Choose the images that all banks are tested on.

    Raises:
        UsageError: there are none.
        MismatchError: a bank has some of them, or is of other classes, or of other groups than the
            others.
    """
    for bank in banks:
        refuse_other_classes(bank, masks)
    group, *others = dict.fromkeys(bank.group for bank in banks)
    if others:
        raise MismatchError(
            "banks of images that were held out in different ways",
            where=f"--bank {','.join(bank.name for bank in banks)}",
            expected="banks that were made with the same --group",
            found=", ".join(f"{bank.name}: {bank.group or 'none'}" for bank in banks),
            hint="test them one by one, or make one again with fungi bank --restart",
        )
    split = choose_split(store, holdout=None, seed=0, group=group)
    if remark := split.remark(is_fixed=True):
        context.reporter.notice(remark)
    for bank in banks:
        if len(both := np.intersect1d(bank.rows, split.test)):
            raise MismatchError(
                "images to test on are in the bank",
                where=f"--bank {bank.name}",
                expected="other images than those of the bank",
                found=f"{counted(len(both), 'row')} in both",
                hint="splits have changed since: make the bank again with fungi bank --restart",
            )
    coverages = [bank.tokens.coverage() for bank in banks]
    removed = coverages[0].removed
    usable = np.logical_and.reduce([coverage.usable for coverage in coverages])
    has_mask = np.zeros(len(removed), bool)
    has_mask[masks.rows] = True
    rows = split.test
    counts = {
        "rows without a mask": (~has_mask & ~removed)[rows].sum(),
        "rows without usable features": (has_mask & ~removed & ~usable)[rows].sum(),
        GONE: removed[rows].sum(),
        "rows without a split": split.outside,
    }
    kept = rows[(has_mask & usable)[rows]]
    if not len(kept):
        raise UsageError(
            "there are no images to test on",
            where=store.where,
            expected="test images with a mask and usable features",
            found=", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
            or "no test images",
            hint="fungi status shows what is missing",
        )
    for bank in banks:
        refuse_seen(store, bank.tokens.arrays.values(), kept)
    excluded = {reason: int(count) for reason, count in counts.items() if count}
    return _Task(kept, split.description, excluded)


def _few(bank: Bank, options: SegmentationOptions, seed: int) -> Bank:
    """Return the bank of some of its images alone."""
    shots = options.shots or 0
    if shots > len(bank.rows):
        options.refuse(
            "shots", f"at most {counted(len(bank.rows), 'image')} of bank {bank.name!r}", shots
        )
    chosen = Stream(seed, "shots").choice(len(bank.rows), shots)
    return bank.subset(np.sort(bank.rows[chosen]))


def _tally(
    bank: Bank, task: _Task, masks: Masks, options: SegmentationOptions, context: Context
) -> _Tally:
    """Count what the bank says of each pixel of the test images."""
    classes = len(masks.classes)
    total = np.zeros((classes, classes), np.int64)
    keeps = options.match == "direct" and 24 * classes * len(task.rows) <= PARTS_BYTES
    parts = []
    for row, shares in _label_maps(bank, task.rows, options):
        context.stop_if_asked()
        truth = masks.read(row)
        if options.size != "own":
            truth = nearest(truth, options.size, options.size)
        counts = confusion_of(truth, largest_class(shares, *truth.shape), classes)
        total += counts
        if keeps and counts.any():
            parts.append(parts_of(counts))
        context.reporter.advance(1)
    return _Tally(total, resampled_miou(parts, options.seed) if parts else None)


def _label_maps(
    bank: Bank, rows: Rows, options: SegmentationOptions
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for numbers, tokens in bank.tokens.stream(rows):
        yield from zip(
            numbers.tolist(), label_maps(bank, tokens, options.k, options.beta), strict=True
        )


def _score(
    name: str,
    bank: Bank,
    measured: Sequence[MaskScores],
    tallies: Sequence[_Tally],
    first: _Tally | None,
    task: _Task,
) -> Score:
    """Average the metrics of the seeds; of one, tell the gain over the first bank."""
    metrics = {
        key: float(np.mean([one.metrics[key] for one in measured])) for key in measured[0].metrics
    }
    spread = {}
    if len(measured) > 1:
        metrics["miou_deviation"] = float(np.std([m.metrics["miou"] for m in measured], ddof=1))
    elif (resampled := tallies[0].resampled) is not None:
        spread["miou"] = interval_of(resampled)
        if first is not None and first.resampled is not None:
            gain = "gain_over_first"
            metrics[gain] = metrics["miou"] - mask_scores(first.confusion).metrics["miou"]
            spread[gain] = interval_of(resampled - first.resampled)
    return Score(
        features=bank.tokens.features,
        dim=bank.tokens.dim,
        n_train=len(bank.rows),
        n_test=len(task.rows),
        metrics=metrics,
        spread=spread,
        protocol={"bank": name, "patches": len(bank.vectors)},
        fingerprints=bank.fingerprints,
        contents=bank.contents,
    )


def _protocol(options: SegmentationOptions, task: _Task, masks: Masks) -> Config:
    size = options.size if options.size == "own" else [options.size, options.size]
    protocol: Config = {
        "split": task.split,
        "masks": masks.digest(task.rows),
        "classes": list(masks.classes),
        "size": size,
        "k": options.k,
        "beta": options.beta,
        "match": options.match,
        "miou": "classes in the truth or the prediction",
    }
    if options.shots is not None:
        protocol |= {"shots": options.shots, **options.seeds_used}
    return protocol


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
