"""Which rows are for training, validation and test: from the store, or a stratified holdout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.matrices.groups import Groups, grouped_holdout, read_groups, sole_groups
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.store.samples import Rows
from fungistore.store.store import Store

HOLDOUT = 0.2  # of each class, where the store has nothing to test on: what is usual
NO_TEST = 'the store has a split "train", and none to test on'


@dataclass(frozen=True)
class Split:
    """Disjoint, ascending row numbers.

    Attributes:
        train: rows to fit on.
        validation: rows to choose parameters on; may be empty.
        test: rows to report on.
        description: where they come from, as part of a protocol.
        outside: rows of no split, in a store that has splits; they are for nothing.
        groups: that are not to be divided, None where rows are independent.
        grouped: what the user should know of them, None if nothing.
    """

    train: Rows
    validation: Rows
    test: Rows
    description: Config
    outside: int = 0
    groups: Groups | None = None
    grouped: str | None = None

    def remark(self, seeds: int = 1, *, is_fixed: bool = False) -> str | None:
        """Say what the user should know of it: why it was made unasked, and what groups made of it.

        Args:
            seeds: how many splits are made like this one, from its seed on.
            is_fixed: the part cannot be chosen, but by splits of the store's own.
        """
        said = [self._unasked(seeds, is_fixed=is_fixed), self.grouped]
        if self.grouped and "holdout" not in self.description:
            ways = "fungi label gives other splits", f"--holdout {HOLDOUT} keeps groups whole"
            said.append(ways[0] if is_fixed else ways[1])
        elif self.grouped and seeds > 1:
            last = self.description["seed"] + seeds - 1
            said.append(f"other groups by each further seed, to {last}")
        return "; ".join(filter(None, said)) or None

    def _unasked(self, seeds: int, *, is_fixed: bool) -> str | None:
        if "because" not in self.description:
            return None
        part, seed = self.description["holdout"], self.description["seed"]
        by = f"the seed {seed}" if seeds == 1 else f"the seeds {seed} to {seed + seeds - 1}"
        return (
            f"{self.description['because']}: {part:.0%} of each class, chosen by {by}, "
            "are held out to test on; "
            + ("fungi label gives splits" if is_fixed else "--holdout takes another part")
        )

    def keep(self, mask: NDArray[np.bool_]) -> Split:
        """Return the split without the rows that a mask over the sample table excludes."""
        names = ("train", "validation", "test")
        return replace(self, **{name: (rows := getattr(self, name))[mask[rows]] for name in names})

    def hold_out(
        self, rows: Rows, labels: NDArray[np.int32], part: float, seed: int, purpose: str
    ) -> tuple[Rows, Rows]:
        """Divide some of its rows as it was divided: by class, and groups whole where it has any.

        See `stratified_holdout` and `grouped_holdout`.
        """
        if self.groups is None:
            return stratified_holdout(rows, labels, part, seed, purpose)
        return grouped_holdout(rows, labels, self.groups, part, seed, purpose)


def named_split(store: Store, name: str, hint: str) -> Rows:
    """Return the rows of a split.

    Args:
        store: the store.
        name: of the split.
        hint: what to try where there is none of that name.

    Raises:
        UsageError: there is none.
    """
    splits = store.samples.splits()
    if name not in splits:
        raise UsageError(
            f"there is no split {name!r}",
            where=store.where,
            expected=", ".join(splits) or "no --split: the store has no splits",
            hint=hint,
        )
    return splits[name]


def choose_split(
    store: Store, *, holdout: float | None, seed: int, group: str | None = None
) -> Split:
    """Return the store's own split, or hold out a part of its train split.

    Without `holdout`, test rows are those of the split "test", or of "val" where there is no
    "test". With it, they are a stratified part of "train" (of all rows where the store has no
    splits), and no row of another split is used. A store without splits, or with "train" and no
    other, has a fifth held out by itself, which the description gives a reason for: "because".

    Args:
        store: the store.
        holdout: the part of each class to hold out, between 0 and 1.
        seed: of the choice of held-out rows.
        group: column of the samples; rows of equal values stay on one side of a holdout.

    Raises:
        UsageError: the store has splits, and none to train on, or none to test on; or there are no
            groups that can be held out.
    """
    splits = store.samples.splits()
    if holdout is None and (because := _lack_of_test_rows(splits)):
        split = choose_split(store, holdout=HOLDOUT, seed=seed, group=group)
        return replace(split, description=split.description | {"because": because})
    empty = np.zeros(0, np.int64)
    outside = len(store.samples) - sum(map(len, splits.values())) if splits else 0
    if holdout is not None:
        pool = splits.get("train", np.arange(len(store.samples)))
        origin = "train" if "train" in splits else "all"
        description: Config = {"from": origin, "holdout": holdout, "seed": seed}
        outside = outside if "train" in splits else 0
        whole = Split(pool, empty, empty, description, outside)
        return _held_out(store, whole, group, holdout, seed)
    test_name = next((name for name in ("test", "val") if name in splits), None)
    if test_name is None or "train" not in splits:
        raise UsageError(
            "the store has no train and test splits",
            where=store.where,
            expected='rows of the splits "train", and "test" or "val"',
            found=", ".join(f"{name} {len(rows)}" for name, rows in splits.items()),
            hint=_hint(splits),
        )
    validation = splits.get("val", empty) if test_name == "test" else empty
    description = {"from": "store", "train": "train", "test": test_name}
    split = Split(splits["train"], validation, splits[test_name], description, outside)
    return split if group is None else _compared(store, split, group)


def _held_out(store: Store, whole: Split, group: str | None, part: float, seed: int) -> Split:
    """Hold a part of the training rows of a split out, to test on."""
    rows, labels = whole.train, store.samples.labels()
    if group is not None:
        whole = replace(whole, groups=read_groups(store, group, rows))
    train, test = whole.hold_out(rows, labels, part, seed, "holdout")
    if (groups := whole.groups) is None:
        return replace(whole, train=train, test=test)
    names = store.manifest.labels
    count = groups.count(rows)
    sole = [names[label] for label in sole_groups(rows, labels, groups)]
    if not len(test):
        raise UsageError(
            "there are no two groups that can be held out",
            where=f"--group {group}",
            expected="two groups or more without a class of their own",
            found=counted(count, "group")
            + (f"; all rows of a class are in one of them: {', '.join(sole)}" if count > 1 else ""),
            hint="a column of more and smaller groups, or no --group",
        )
    held, of = groups.count(test), counted(count, "group")
    said = (
        f"--group {group}: {held} of {of}, {len(test) / len(rows):.1%} of the rows, "
        f"{'is' if held == 1 else 'are'} held out by the seed {seed}"
    )
    if sole:
        said += f"; groups with all rows of a class are kept to train on: {', '.join(sole)}"
    description = whole.description | {"group": group}
    return replace(whole, train=train, test=test, description=description, grouped=said)


def _compared(store: Store, split: Split, group: str) -> Split:
    """Count which groups a store's own splits divide; rows to validate on may be held out yet."""
    sides = [split.train, split.validation, split.test]
    groups = read_groups(store, group, np.concatenate(sides))
    of_sides = [np.unique(groups.numbers[rows]) for rows in sides]
    _, counts = np.unique(np.concatenate(of_sides), return_counts=True)
    divided = int((counts > 1).sum())
    said = (
        f"--group {group}: {divided} of {counted(len(counts), 'group')} "
        f"{'is' if divided == 1 else 'are'} in more than one of the store's splits, so rows are "
        "tested on whose like were trained on"
    )
    description = split.description | {"group": group}
    return replace(split, groups=groups, description=description, grouped=said if divided else None)


def _lack_of_test_rows(splits: Mapping[str, Rows]) -> str | None:
    """Say why test rows must be held out; None where a split is there that may be meant for it."""
    if not splits:
        return "the store has no splits"
    return NO_TEST if list(splits) == ["train"] else None


def _hint(splits: Mapping[str, Rows]) -> str:
    """Say what to do where splits have names of their own, which may mean anything."""
    part = f"--holdout {HOLDOUT}"
    if "train" in splits:
        return f"{part} tests on a fifth of each class of train; a test split's name is test or val"
    return (
        f"fungi extract adds those of the train split; {part} takes all rows that are there for "
        "one set, and tests on a fifth of each class"
    )


def stratified_holdout(
    rows: Rows, labels: NDArray[np.int32], part: float, seed: int, purpose: str = "holdout"
) -> tuple[Rows, Rows]:
    """Divide rows into those kept and those held out, the same part of every class.

    A class of two rows or more has at least one on each side; a class of one is kept. Rows without
    a label are a class of their own. The choice depends on (seed, purpose) and the rows alone.

    Args:
        rows: ascending row numbers to divide.
        labels: labels of the whole sample table, -1 where there is none.
        part: between 0 and 1.
        seed: of the choice.
        purpose: names the stream of random numbers, so that two choices are independent.

    Raises:
        UsageError: `part` is not between 0 and 1.
    """
    if not 0 < part < 1:
        raise UsageError("a holdout cannot be made", where="--holdout", expected="between 0 and 1")
    if not len(rows):
        return rows, rows
    keys = Stream(seed, purpose).uniform(int(rows[-1]) + 1)[rows]
    classes = labels[rows]
    order = np.lexsort((keys, classes))
    _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    held = np.clip(np.rint(part * counts).astype(np.int64), counts > 1, counts - 1)
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    is_held = np.zeros(len(rows), bool)
    is_held[order] = rank < np.repeat(held, counts)
    return rows[~is_held], rows[is_held]
