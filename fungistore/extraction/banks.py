"""Banks: latents of samples of the train split, encoded once, that an objective compares with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.errors import FungiError, StoppedError
from fungistore.extraction.bank_blocks import BankBlocks, OpenBlock
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.loader import load_batches
from fungistore.extraction.plan import BatchPlan
from fungistore.extraction.resolve import Resolved
from fungistore.machine.context import Context
from fungistore.modalities.views import count_views
from fungistore.objectives.objective import BankObjective, BankSpec, PlannedBank, StoppableBank
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.store.samples import Rows

STAND_IN = 1 << 14  # latents in place of all samples': more than any number of prototypes
ROWS_AT_ONCE = 1 << 13  # of the table that are held while their items are encoded


class Candidates(Protocol):
    """Samples that a bank may be made of: a store's table, or what is in memory."""

    def rows_of_split(self, split: str) -> Rows:
        """Return the row numbers of a split, or of all samples where none has that split."""

    def take(self, rows: Rows) -> list[dict[str, Any]]:
        """Return some rows, as the sample table has them."""


def encode_bank(
    resolved: Resolved,
    samples: Candidates,
    feature: str,
    maker: FeatureMaker,
    context: Context,
    kept: BankBlocks | None = None,
) -> NDArray[np.float32]:
    """Encode views of random samples of the train split (of all, where there is none).

    Memory: the latents, and some thousand rows of the table, whatever its size.

    Args:
        resolved: the settled options.
        samples: the store's samples, or others.
        feature: the objective that needs the bank.
        maker: makes its latents; see `bank_features`.
        context: its reporter is told what happens, its stop asked between batches, and by an
            objective that takes long to make a bank of latents.
        kept: latents of a run that was interrupted, with which this one goes on; None: there is no
            place for such.

    Returns:
        What the objective makes of the latents [samples * views, d]. Unreadable samples are
        replaced by others.

    Raises:
        UsageError: the objective cannot make its bank of so few samples.
        FungiError: none of the samples could be read.
        StoppedError: `context` asked for it; what was encoded is kept.
    """
    wanted = samples_of(resolved.banks[feature], samples)
    for notice in bank_notices(resolved, feature, wanted):
        context.reporter.notice(notice)
    order = _order(resolved, samples, feature, wanted)
    latents, last = _encoded(resolved, order, feature, maker, context, kept, wanted)
    if not len(latents):
        raise FungiError(
            f"no {resolved.modality.item} could be read to take {resolved.banks[feature].name} "
            "from",
            where=f"{len(order.rows)} {resolved.modality.items} tried",
        )
    try:
        rows = latents.reshape(-1, latents.shape[-1])
        return _reduced(resolved, feature, rows, context.stop_if_asked)
    except StoppedError:
        last.write()
        raise


def samples_of(spec: BankSpec, samples: Candidates) -> int:
    """Return how many samples a bank is made of."""
    limits = [most for most in (spec.samples, spec.most) if most is not None]
    return min([len(samples.rows_of_split("train")), *limits])


def samples_left(
    resolved: Resolved, samples: Candidates, feature: str, kept: BankBlocks | None
) -> int:
    """Return how many samples are still to be encoded for a bank, some of which may be kept."""
    wanted = samples_of(resolved.banks[feature], samples)
    order = _order(resolved, samples, feature, wanted)
    blocks = kept.read(order.ids) if kept else ()
    return max(0, wanted - sum(len(block.latents) for block in blocks))


def bank_notices(resolved: Resolved, feature: str, samples: int) -> Iterator[str]:
    """Yield what the user should know of a bank of some samples before it is made.

    Raises:
        UsageError: the objective cannot make its bank of so few.
    """
    spec, objective = resolved.banks[feature], resolved.objective(feature)
    if spec.samples is not None and samples < spec.samples:
        yield (
            f"{feature}: {samples} {resolved.modality.items} to take {spec.name} from, "
            f"{spec.samples} asked for"
        )
    if isinstance(objective, PlannedBank):
        plan = objective.plan_bank(samples, _width(resolved, feature))
        if plan.notice:
            yield f"{feature}: {plan.notice}"


def stand_in(resolved: Resolved, feature: str, samples: int | None = None) -> NDArray[np.float32]:
    """Return a bank of noise, of the size that one of some samples has; default: about that."""
    spec, objective = resolved.banks[feature], resolved.objective(feature)
    random = np.random.default_rng(0)
    most, width = samples or spec.samples or spec.most, _width(resolved, feature)
    if isinstance(objective, PlannedBank):
        shape = objective.plan_bank(most or STAND_IN, width).shape
        return random.standard_normal(shape, np.float32)
    each = spec.per_sample or bank_forwards(resolved, feature)
    # of all samples: their number need not decide what is made of them
    rows = STAND_IN if spec.samples is None else (samples or spec.samples) * each
    return _reduced(resolved, feature, random.standard_normal((rows, width), np.float32))


def _width(resolved: Resolved, feature: str) -> int:
    """Return the width of a bank's latents."""
    width, backbone = resolved.banks[feature].width, resolved.backbone
    return backbone.token_dim if width is None else width or backbone.embedding_dim


def bank_forwards(resolved: Resolved, feature: str) -> int:
    """Return how many forwards a sample costs that is encoded for a bank."""
    recipe = resolved.views.get(feature)
    return resolved.banks[feature].views or (1 if recipe is None else count_views(recipe))


@dataclass(frozen=True)
class _Order:
    """The samples of a bank in the order in which they are tried, by their rows in a table."""

    samples: Candidates
    rows: Rows

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the ids of those from one place to another."""
        return [row["id"] for row in self.samples.take(self.rows[start:stop])]

    def plans(self, start: int, size: int, feature: str) -> Iterator[BatchPlan]:
        """Yield batches from some place on; a table is read for many of them at once."""
        many = max(1, ROWS_AT_ONCE // size) * size
        for first in range(start, len(self.rows), many):
            rows = self.samples.take(self.rows[first : first + many])
            for place in range(0, len(rows), size):
                yield BatchPlan(0, rows[place : place + size], frozenset([feature]), last=False)


def _order(resolved: Resolved, samples: Candidates, feature: str, wanted: int) -> _Order:
    """Return the samples that are tried: as many again, where the first cannot be read."""
    candidates = samples.rows_of_split("train")
    stream = Stream(resolved.options.seed, resolved.banks[feature].name, feature)
    tried = min(len(candidates), 2 * wanted)
    return _Order(samples, candidates[stream.choice(len(candidates), tried)])


def _encoded(
    resolved: Resolved,
    order: _Order,
    feature: str,
    maker: FeatureMaker,
    context: Context,
    kept: BankBlocks | None,
    wanted: int,
) -> tuple[NDArray[np.float32], OpenBlock]:
    """Return the latents [k, v, d] of the first samples that can be read, as many as are wanted.

    Beside them is the block that the last of them are in, which is not written yet.
    """
    blocks = list(kept.read(order.ids)) if kept else []
    found = [block.latents for block in blocks]
    tried, done = sum(block.tried for block in blocks), sum(map(len, found))
    what, modality = f"{feature} {resolved.banks[feature].name}", resolved.modality
    if tried:
        said = counted(done, modality.item, modality.items)
        context.reporter.notice(f"{what}: going on after {said}")
    context.reporter.begin(what, wanted, done=done)
    grows = OpenBlock(kept, tried)
    plans = order.plans(tried, resolved.batch_size, feature) if done < wanted else ()
    with closing(_latents(resolved, plans, feature, maker, context)) as batches:
        try:
            for ids, latents in batches:
                grows.add(ids, latents)
                found.append(latents)
                context.reporter.advance(min(len(latents), wanted - done))
                done += len(latents)
                if done >= wanted:
                    break
        except StoppedError:
            grows.write()
            raise
    context.reporter.end()
    return np.concatenate(found)[:wanted], grows


def _latents(
    resolved: Resolved,
    plans: Iterable[BatchPlan],
    feature: str,
    maker: FeatureMaker,
    context: Context,
) -> Generator[tuple[list[str], NDArray[np.float32]]]:
    """Yield the ids of batches of samples, and the latents [k, v, d] of those that can be read."""
    for batch in load_batches(plans, maker, resolved.workers):
        context.stop_if_asked()
        failed = {failure.row for failure in batch.failures}
        rows = batch.plan.rows
        is_read = np.array([row["row"] not in failed for row in rows])
        yield [row["id"] for row in rows], maker.latents(batch.drawn, feature)[is_read]


def _reduced(
    resolved: Resolved,
    feature: str,
    latents: NDArray[np.float32],
    ask: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    objective, rows = resolved.objective(feature), torch.from_numpy(latents)
    assert isinstance(objective, BankObjective)
    with torch.no_grad():
        if isinstance(objective, StoppableBank):
            bank = objective.reduce_asking(rows, ask)
        else:
            bank = objective.reduce(rows)
    made: NDArray[np.float32] = bank.numpy()
    return made
