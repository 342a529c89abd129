"""A classification task on a store: labelled rows with usable features, and their split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.evaluation.result import class_names, count_excluded
from fungistore.fingerprint import Config
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors, open_features
from fungistore.matrices.choices import FeatureChoice, TaskChoice
from fungistore.matrices.seen import refuse_seen
from fungistore.matrices.splits import Split, choose_split
from fungistore.pca.stage import refuse_leak
from fungistore.quantities import counted
from fungistore.store.coverage import Coverage
from fungistore.store.opening import begin, opening
from fungistore.store.samples import Rows
from fungistore.store.store import Store

NAMES_SHOWN = 5
RESIDENT_BYTES = 1_000_000_000  # of vectors that are kept in memory rather than read again


@dataclass(frozen=True)
class Unseen:
    """Test rows that no classifier can get right.

    Attributes:
        rows: how many.
        tested: test rows in all.
        classes: names of their classes, which no training row has.
    """

    rows: int
    tested: int
    classes: tuple[str, ...]


def say_unseen(unseen: Unseen, context: Context) -> int:
    """Say how many test rows are wrong whatever a classifier says; returns the number."""
    if unseen.rows:
        names = ", ".join(unseen.classes[:NAMES_SHOWN])
        names += ", ..." if len(unseen.classes) > NAMES_SHOWN else ""
        context.reporter.notice(
            f"{unseen.rows} of "
            f"{counted(unseen.tested, 'test row is', 'test rows are')} of classes "
            f"without training rows "
            f"({names}): they count as wrong"
        )
    return unseen.rows


def say_split(split: Split, context: Context, seeds: int = 1) -> Config:
    """Say where test rows come from if nobody has asked for it; returns the description."""
    if remark := split.remark(seeds):
        context.reporter.notice(remark)
    return split.description


@dataclass(frozen=True)
class Task:
    """What to classify.

    Attributes:
        matrix: the features asked for.
        labels: of the whole sample table, -1 where unknown.
        split: labelled rows, usable in every block, so that combinations compare like with like.
        excluded: rows of the split that were left out, by reason.
        present: labels, ascending, that some row has whose file is there; a class that lost its
            name to another stays among the store's names, and is none of the task's.
        spare: labelled, usable training rows that are no shots, nor of a group that has one; none
            where all are trained on.
    """

    matrix: FeatureMatrix
    labels: NDArray[np.int32]
    split: Split
    excluded: dict[str, int]
    present: NDArray[np.int32]
    spare: Rows = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def store(self) -> Store:
        """The store."""
        return self.matrix.store

    @property
    def unseen(self) -> Unseen:
        """The test rows of classes that no training row has."""
        tested = self.labels[self.split.test]
        unseen = ~np.isin(tested, self.labels[self.split.train])
        names = class_names(self.store, np.unique(tested[unseen]).tolist())
        return Unseen(int(unseen.sum()), len(tested), tuple(names))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.present)


def open_task(
    store: str | Path | Store,
    features: Sequence[str] | None = None,
    *,
    pca: str | None = None,
    feature_set: str | None = None,
    holdout: float | None = None,
    seed: int = 0,
    group: str | None = None,
) -> Task:
    """Open a store for classification.

    Args:
        store: the store, or its directory.
        features: blocks; default: all vector features.
        pca: a stored PCA, instead of blocks.
        feature_set: may be left out where there is one.
        holdout: part of each class to test on, where the store has no test split.
        seed: of the holdout.
        group: column of the samples; rows of equal values are on one side.

    Raises:
        UsageError: features cannot be found, labels are missing, one side of the split is empty,
            or all training rows are of one class.
        MismatchError: the PCA was fitted on test rows.
    """
    opened = Store.open(store)
    with opening(opened):
        matrix = open_features(opened, features, pca=pca, feature_set=feature_set)
        begin(opened, matrix.arrays)
        task = task_of(matrix, holdout=holdout, seed=seed, group=group)
        refuse_leak(matrix, task.split.test)
    return task


def task_for(store: str | Path | Store, options: TaskChoice, seed: int | None = None) -> Task:
    """Open the task that an evaluation's options choose.

    Args:
        store: the store's directory.
        options: which features and rows.
        seed: of the choice of rows; None: that of the options.

    Raises:
        UsageError, MismatchError: as in `open_task`.
    """
    return open_task(
        Store.open(store, keep_removed=options.keep_removed),
        options.features,
        pca=options.pca if isinstance(options, FeatureChoice) else None,
        feature_set=options.feature_set,
        holdout=options.holdout,
        seed=options.rows_seed if seed is None else seed,
        group=options.group,
    )


def task_of(
    matrix: FeatureMatrix, *, holdout: float | None, seed: int, group: str | None = None
) -> Task:
    """Return the task of classifying the rows of any features, as `open_task` does.

    Args:
        matrix: the features.
        holdout: part of each class to test on, where the store has no test split.
        seed: of the holdout.
        group: column of the samples; rows of equal values are on one side.

    Raises:
        UsageError: labels are missing, one side of the split is empty, all training rows are of one
            class, or the features' encoder was adapted on test rows.
    """
    opened, coverage = matrix.store, matrix.coverage()
    found = labelled_rows(opened, coverage, holdout=holdout, seed=seed, group=group)
    refuse_seen(opened, matrix.arrays, found.split.test)
    present = np.unique(found.labels[(found.labels >= 0) & ~coverage.removed])
    return Task(matrix, found.labels, found.split, found.excluded, present)


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a store that a classifier can be made of, and tested on.

    Attributes:
        labels: of the whole sample table, -1 where unknown.
        split: labelled, usable rows.
        excluded: rows of the split that were left out, by reason.
    """

    labels: NDArray[np.int32]
    split: Split
    excluded: dict[str, int]


def labelled_rows(
    store: Store,
    coverage: Coverage,
    *,
    holdout: float | None,
    seed: int,
    group: str | None = None,
) -> LabelledRows:
    """Divide a store's labelled rows into those to train, to validate and to test on.

    Args:
        store: the store.
        coverage: which of its rows can be used.
        holdout: part of each class to test on, where the store has no test split.
        seed: of the holdout.
        group: column of the samples; rows of equal values are on one side.

    Raises:
        UsageError: labels are missing, one side of the split is empty, or all training rows are
            of one class.
    """
    labels = store.samples.labels()
    split = choose_split(store, holdout=holdout, seed=seed, group=group)
    rows = np.concatenate([split.train, split.validation, split.test])
    is_labelled, is_usable = labels >= 0, coverage.usable
    if not is_labelled[rows].any():
        raise UsageError(
            "the samples have no labels",
            where=store.where,
            expected="class folders, or a manifest with a column `label`",
            hint="fungi extract from such a source gives labels",
        )
    excluded = count_excluded(rows, is_labelled, coverage, split.outside)
    kept = split.keep(is_labelled & is_usable)
    for name in ("train", "test"):
        if not len(getattr(kept, name)):
            classes, sizes = np.unique(labels[kept.train], return_counts=True)
            if name == "test" and "holdout" in split.description and (sizes == 1).all():
                raise UsageError(
                    "no class can be divided: each has one row",
                    where=split.description.get("because", "--holdout"),
                    expected="classes of two labelled rows with usable features, or more",
                    found=f"{counted(len(classes), 'class')} of one row",
                    hint="label the samples by fewer classes, or add samples to them",
                )
            raise UsageError(
                f"there are no {name} rows",
                where=store.where,
                found=(
                    f"{counted(len(getattr(split, name)), 'row')}, none with a label and "
                    f"usable features"
                ),
                hint="fungi status shows what is missing; fungi extract completes it",
            )
    present = np.unique(labels[kept.train])
    if len(present) < 2:
        raise UsageError(
            "all training rows are of one class",
            where=store.where,
            expected="two classes or more",
            found=store.manifest.labels[present[0]],
            hint="add samples of another class, or hold out other rows: another --split-seed, or "
            "a smaller --holdout",
        )
    return LabelledRows(labels, kept, excluded)


def with_validation(
    rows: LabelledRows, names: Sequence[str], validation: float, seed: int
) -> LabelledRows:
    """Return rows with some to choose an epoch on: a part of each class of those to train on.

    Rows of a store's own validation split stay as they are.

    Args:
        rows: of the store.
        names: of its classes.
        validation: the part.
        seed: of its choice.

    Raises:
        UsageError: a class has rows to validate or test on, and none to train on.
    """
    split, labels = rows.split, rows.labels
    if not len(split.validation):
        train, held = split.hold_out(split.train, labels, validation, seed, "validation")
        if split.groups is not None and not len(held):
            raise UsageError(
                "the training rows have no two groups that can be held out to validate on",
                where=f"--group {split.groups.column}",
                expected="two groups or more without a class of their own",
                found=counted(split.groups.count(train), "group"),
                hint="a smaller --holdout, another --split-seed, or a split val of the store's own",
            )
        origin = {"validation": validation, "validation_seed": seed}
        described = split.description | origin
        split = replace(split, train=train, validation=held, description=described)
    others = np.concatenate([split.validation, split.test])
    unseen = np.setdiff1d(labels[others], np.unique(labels[split.train]))
    if len(unseen):
        raise UsageError(
            f"{counted(len(unseen), 'class has', 'classes have')} no training rows",
            found=", ".join(names[label] for label in unseen[:NAMES_SHOWN]),
            hint="give each class training images with usable features, or leave the class out"
            + ("" if split.groups is None else "; or hold out other groups with --split-seed"),
        )
    return replace(rows, split=split)


class TaskRows:
    """Rows of a feature matrix as blocks of (row numbers, vectors) that can be iterated again.

    They are read once and kept where they are small enough, else from the store each time.

    Args:
        matrix: the features.
        rows: ascending numbers of usable rows.
        transform: is applied to each block of vectors, such as a PCA.
    """

    def __init__(
        self, matrix: FeatureMatrix, rows: Rows, transform: Callable[[Vectors], Vectors]
    ) -> None:
        self._matrix, self._rows, self._transform = matrix, rows, transform
        self._kept: list[tuple[Rows, Vectors]] | None = None
        if 4 * matrix.dim * len(rows) <= RESIDENT_BYTES:
            blocks = list(self._read())
            numbers, vectors = zip(*blocks, strict=True)
            self._kept = [(np.concatenate(numbers), np.concatenate(vectors))]

    def __iter__(self) -> Iterator[tuple[Rows, Vectors]]:
        return iter(self._kept) if self._kept is not None else self._read()

    def _read(self) -> Iterator[tuple[Rows, Vectors]]:
        for numbers, vectors in self._matrix.stream(self._rows):
            yield numbers, self._transform(vectors)
