"""Heads on their test rows: what each says of them, and the mean of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.loff.data import HeadData
from fungistore.loff.flips import flips_of
from fungistore.loff.scoring import probabilities
from fungistore.loff.stored import StoredHead, head_rows, open_head
from fungistore.machine.context import Context
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.training.rates import Timer

BATCH_ROWS = 64


@dataclass(frozen=True)
class AskedHead:
    """What a head says of its test rows.

    Attributes:
        stored: the head.
        data: its rows.
        said: probabilities [n, classes] of the test rows.
        seconds_per_row: that it took, with the reading of the rows, after a first batch.
    """

    stored: StoredHead
    data: HeadData
    said: NDArray[np.float32]
    seconds_per_row: float

    @property
    def truth(self) -> NDArray[np.int32]:
        """The labels [n] of the test rows."""
        return self.data.labels[self.data.split.test]


def ask_head(
    store: Store,
    feature_set: str,
    name: str,
    tta: Sequence[str],
    place: torch.device,
    context: Context,
) -> AskedHead:
    """Ask a head of its test rows.

    Args:
        store: the store.
        feature_set: of the head.
        name: of the head.
        tta: flips that are averaged over.
        place: where it runs.
        context: is told where it was trained on what was made anew since.

    Raises:
        UsageError: it is not trained yet, or its input cannot be flipped.
        MismatchError: features or rows are not those of its training any more.
    """
    stored = open_head(store, feature_set, name)
    flips = flips_of(tta, stored)
    data = head_rows(store, stored)
    if stored.is_stale:
        context.reporter.notice(
            f"head {name!r} was trained on rows that were made anew since; "
            "train it again: fungi train-loff with --restart"
        )
    stored.head.to(place)

    def ask(rows: Rows) -> NDArray[np.float32]:
        loader = stored.loader(rows, BATCH_ROWS, place)
        return probabilities(stored.head, loader, pool=stored.pool, dtype=stored.dtype, flips=flips)

    rows = data.split.test
    ask(rows[:BATCH_ROWS])  # what comes first is slow, on GPUs above all
    timer = Timer(place)
    said = ask(rows)
    return AskedHead(stored, data, said, timer.seconds() / len(rows))


def refuse_other_tests(heads: Sequence[AskedHead]) -> None:
    """Refuse an ensemble of heads that do not share their classes and test rows.

    Raises:
        UsageError: they do not, so one may have learnt what another is tested on.
    """
    first, *others = heads
    for other in others:
        if other.stored.classes != first.stored.classes or not np.array_equal(
            other.data.split.test, first.data.split.test
        ):
            seeds = (f"{one.stored.name}: {one.stored.rows_seed}" for one in (first, other))
            raise UsageError(
                "heads with other test rows are no ensemble: one may have learnt what another is "
                "tested on",
                where=f"{first.stored.name} and {other.stored.name}",
                expected="the same rows held out from all",
                found=f"seeds of the holdout {', '.join(seeds)}",
                hint="train them with one --split-seed, and a --seed each",
            )
