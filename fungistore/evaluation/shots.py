"""Few-shot evaluations: so many training rows of each class, and what is left of the others.

FUNGI, tables 1, 8 and 16: the paper takes 5; its code takes the first of each class for images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from fungistore.errors import UsageError
from fungistore.evaluation.options import ALL, ShotRule
from fungistore.evaluation.task import Task
from fungistore.machine.context import Context
from fungistore.matrices.groups import SEEDS
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.store.samples import Rows


def few(task: Task, shots: int | Literal["all"], rule: ShotRule, seed: int) -> Task:
    """Return the task of learning from shots; the other training rows are its `spare` ones.

    Where rows are of groups, those of a shot's group are not spare.

    Args:
        task: of all training rows.
        shots: how many of each class.
        rule: which of them.
        seed: of the choice.

    Raises:
        UsageError: no proportional choice is possible.
    """
    if shots == ALL:
        return task
    train = task.split.train
    chosen = choose_shots(train, task.labels, shots, rule, seed)
    spare = np.setdiff1d(train, chosen, assume_unique=True)
    if (groups := task.split.groups) is not None:
        spare = spare[~np.isin(groups.numbers[spare], groups.numbers[chosen])]
    return replace(task, split=replace(task.split, train=chosen), spare=spare)


def choose_shots(
    rows: Rows, labels: NDArray[np.int32], shots: int, rule: ShotRule, seed: int
) -> Rows:
    """Return training rows for a few-shot evaluation, ascending.

    Up to `shots` rows of each class: random ones, or the first; those of fewer shots are among
    those of more. Proportional ones are `shots` times the number of classes, drawn by scikit-learn
    so that classes are as frequent as among the rows: the reference's rule for texts.

    Raises:
        UsageError: no proportional choice is possible, as where a class has one row.
    """
    if rule == "proportional":
        return _proportional(rows, labels[rows], shots, seed)
    keys = np.arange(len(rows)) if rule == "first" else Stream(seed, "shots").uniform(len(rows))
    order = np.lexsort((keys, labels[rows]))
    _, starts, counts = np.unique(labels[rows][order], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    return np.sort(rows[order[rank < shots]])


def say_few(task: Task, shots: int | Literal["all"], rule: ShotRule, context: Context) -> None:
    """Say which classes have fewer training rows than shots, of which all rows are taken."""
    if shots == ALL:
        return
    _, counts = np.unique(task.labels[task.split.train], return_counts=True)
    total, classes = int(counts.sum()), len(counts)
    if rule == "proportional" and shots * classes > total:
        context.reporter.notice(
            f"--shots {shots}: {counted(shots * classes, 'row is', 'rows are')} asked for, "
            f"and all {total} are taken"
        )
    if rule != "proportional" and (small := int((counts < shots).sum())):
        context.reporter.notice(
            f"--shots {shots}: {small} of {counted(classes, 'class has', 'classes have')} fewer "
            "training rows, and all of them are taken"
        )


def _proportional(rows: Rows, classes: NDArray[np.int32], shots: int, seed: int) -> Rows:
    wanted = shots * len(np.unique(classes))
    if wanted >= len(rows):
        return rows
    splitter = StratifiedShuffleSplit(1, train_size=wanted, random_state=seed % SEEDS)
    try:
        ((chosen, _),) = splitter.split(classes, classes)
    except ValueError as error:  # what a draw needs of each class on both of its sides
        raise UsageError(
            "no proportional choice of shots is possible",
            where=f"--shots {shots} --shot-rule proportional",
            found=error,
            hint="--shot-rule random takes what each class has",
        ) from error
    return np.sort(rows[chosen])
