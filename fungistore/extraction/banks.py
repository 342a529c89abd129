"""Banks: latents of samples of the train split, encoded once, that an objective compares with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.errors import FungiError
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.loader import load_batches
from fungistore.extraction.plan import BatchPlan
from fungistore.extraction.resolve import Resolved
from fungistore.machine.context import Context
from fungistore.modalities.views import count_views
from fungistore.objectives.objective import BankObjective, BankSpec
from fungistore.randomness import Stream
from fungistore.store.samples import Rows

STAND_IN = 1 << 14  # latents in place of all samples': more than any number of prototypes


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
) -> NDArray[np.float32]:
    """Encode views of random samples of the train split (of all, where there is none).

    Args:
        resolved: the settled options.
        samples: the store's samples, or others.
        feature: the objective that needs the bank.
        maker: makes its features, as yet without the bank.
        context: its reporter is told what happens, its stop asked between batches.

    Returns:
        What the objective makes of the latents [samples * views, d]. Unreadable samples are
        replaced by others.

    Raises:
        FungiError: none of the samples could be read.
    """
    spec, items = resolved.banks[feature], resolved.modality.items
    candidates = samples.rows_of_split("train")
    wanted = samples_of(spec, samples)
    if spec.samples is not None and wanted < spec.samples:
        context.reporter.notice(
            f"{feature}: {wanted} {items} to take {spec.name} from, {spec.samples} asked for"
        )
    stream = Stream(resolved.options.seed, spec.name, feature)
    order = candidates[stream.choice(len(candidates), min(len(candidates), 2 * wanted))]
    rows, size = samples.take(order), resolved.batch_size

    def plans() -> Iterator[BatchPlan]:
        for start in range(0, len(rows), size):
            yield BatchPlan(0, rows[start : start + size], frozenset([feature]), last=False)

    def latents() -> Iterator[NDArray[np.float32]]:
        for batch in load_batches(plans(), maker, resolved.workers):
            context.stop_if_asked()
            failed = {failure.row for failure in batch.failures}
            encoded = maker.latents(batch.drawn, feature)
            for row, views in zip(batch.plan.rows, encoded, strict=True):
                if row["row"] not in failed:
                    context.reporter.advance(1)
                    yield views

    context.reporter.begin(f"{feature} {spec.name}", wanted)
    found = list(islice(latents(), wanted))
    context.reporter.end()
    if not found:
        raise FungiError(
            f"no {resolved.modality.item} could be read to take {spec.name} from",
            where=f"{len(order)} {items} tried",
        )
    return _reduced(resolved, feature, np.concatenate(found))


def samples_of(spec: BankSpec, samples: Candidates) -> int:
    """Return how many samples a bank is made of."""
    candidates = len(samples.rows_of_split("train"))
    return candidates if spec.samples is None else min(spec.samples, candidates)


def stand_in(resolved: Resolved, feature: str, samples: int | None = None) -> NDArray[np.float32]:
    """Return a bank of noise, of the size that one of some samples has; default: about that."""
    spec, recipe = resolved.banks[feature], resolved.views.get(feature)
    each = spec.per_sample or (1 if recipe is None else count_views(recipe))
    # of all samples: their number need not decide what is made of them
    rows = STAND_IN if spec.samples is None else (samples or spec.samples) * each
    backbone = resolved.backbone
    width = backbone.token_dim if spec.width is None else spec.width or backbone.embedding_dim
    noise = np.random.default_rng(0).standard_normal((rows, width), np.float32)
    return _reduced(resolved, feature, noise)


def _reduced(resolved: Resolved, feature: str, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    objective = resolved.objective(feature)
    assert isinstance(objective, BankObjective)
    with torch.no_grad():
        bank: NDArray[np.float32] = objective.reduce(torch.from_numpy(latents)).numpy()
    return bank
