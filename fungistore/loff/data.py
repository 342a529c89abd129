"""What a head is trained and tested on: rows of one array, their labels, and their split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fungistore.errors import UsageError
from fungistore.evaluation.task import labelled_rows, with_validation
from fungistore.fingerprint import Config, digest_rows
from fungistore.loff.loader import PatchLoader
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.matrices.cells import pooled
from fungistore.matrices.seen import refuse_seen
from fungistore.matrices.splits import Split
from fungistore.quantities import counted
from fungistore.store.feature import LENGTHS, PATCHES
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.removed import GONE
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


@dataclass(frozen=True)
class HeadData:
    """Labelled rows of an array, divided for training.

    Attributes:
        feature_set: name of the feature set.
        array: of patch tensors [N, h, w, d] or [N, tokens, d], or of embeddings [N, d].
        embeddings: that are read beside patch tensors, None where they are not.
        pool: cells of a feature map are averaged over pool x pool.
        labels: of the whole sample table, -1 where unknown.
        names: of the classes.
        split: usable, labelled rows; all three parts have some.
        excluded: rows of the split that were left out, by reason.
    """

    feature_set: str
    array: UnitArray
    embeddings: UnitArray | None
    pool: int
    labels: NDArray[np.int32]
    names: tuple[str, ...]
    split: Split
    excluded: dict[str, int]

    @property
    def arrays(self) -> tuple[UnitArray, ...]:
        """All that is read."""
        return (self.array,) if self.embeddings is None else (self.array, self.embeddings)

    @property
    def width(self) -> int:
        """Channels of a cell, or of an embedding."""
        return int(self.array.array.shape[-1])

    @property
    def embedding_dim(self) -> int | None:
        """Channels of an embedding beside patch tensors."""
        return None if self.embeddings is None else int(self.embeddings.array.shape[-1])

    @property
    def grid(self) -> tuple[int, int] | None:
        """Cells of a feature map after pooling, one row of a sequence; None for embeddings."""
        shape = self.array.array.shape
        if self.is_sequence:
            return 1, shape[1]
        return (shape[1] // self.pool, shape[2] // self.pool) if len(shape) == 4 else None

    @property
    def is_sequence(self) -> bool:
        """Whether tokens follow each other, and have no place in an image that is known."""
        return self.array.array.ndim == 3

    def without(self, gone: Rows) -> HeadData:
        """Return the same without some test rows, whose file is gone from the source."""
        test = np.setdiff1d(self.split.test, gone)
        reason = {GONE: len(self.split.test) - len(test)}
        return replace(self, split=replace(self.split, test=test), excluded=self.excluded | reason)

    def digest(self) -> Config:
        """Return what identifies the rows and labels that are trained and validated on."""
        parts = {"train": self.split.train, "validation": self.split.validation}
        return {
            name: {
                "rows": len(rows),
                "digest": digest_rows(np.concatenate([rows, self.labels[rows]])),
            }
            for name, rows in parts.items()
        }


def open_head_data(
    store: Store,
    feature: str,
    *,
    embeddings: bool = False,
    feature_set: str | None,
    pool: int,
    holdout: float | None,
    validation: float,
    seed: int,
    group: str | None = None,
) -> HeadData:
    """Choose the rows of a feature to train a head on.

    Args:
        store: the store.
        feature: "patches" or "embeddings".
        embeddings: whether they are read beside patches; rows must be usable in both then.
        feature_set: may be left out where there is one.
        pool: cells to average over; for patches only.
        holdout: part of each class to test on, where the store has no test split.
        validation: part of each training class, where the store has no validation split.
        seed: of both.
        group: column of the samples; rows of equal values are on one side.

    Raises:
        UsageError: a feature or labels are missing, the grid cannot be pooled, or a class that
            is tested has no training rows.
    """
    chosen = choose_feature_set(store, feature_set)
    known = store.arrays(chosen)
    features = (feature, "embeddings") if embeddings else (feature,)
    for missing in [name for name in features if name not in known]:
        raise UsageError(
            f"there are no {missing} to train on",
            where=f"feature set {chosen!r} of {store.where}",
            found=", ".join(known),
            hint=f"fungi extract with --features {missing} makes them",
        )
    arrays = tuple(known[name] for name in features)
    _refuse_padded(store, chosen, feature)
    _refuse_unpoolable(arrays[0], feature, pool)
    matrix = FeatureMatrix(store, chosen, features, arrays)
    rows = labelled_rows(store, matrix.coverage(), holdout=holdout, seed=seed, group=group)
    refuse_seen(store, arrays, rows.split.test)
    names = store.manifest.labels
    rows = with_validation(rows, names, validation, seed)
    beside = known["embeddings"] if embeddings else None
    return HeadData(chosen, arrays[0], beside, pool, rows.labels, names, rows.split, rows.excluded)


def moments(loader: PatchLoader, pool: int) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Return mean and standard deviation of each channel, over all cells of a loader's rows."""
    width = int(loader.array.array.shape[-1])
    count = 0
    sums = torch.zeros(2, width, dtype=torch.float64, device=loader.device)
    for values in _cells(loader, pool):
        count += len(values)
        sums += torch.stack([values.sum(dim=0), values.square().sum(dim=0)])
    mean, square = sums / count
    variance = (square - mean**2).clamp_min(0)
    return mean.float().cpu(), variance.sqrt().float().cpu()


def _cells(loader: PatchLoader, pool: int) -> Iterator[Float[Tensor, "n d"]]:
    for batch in loader.epoch(0):
        values = pooled(batch.values, pool) if batch.values.ndim == 4 else batch.values
        yield values.flatten(0, -2).double()


def as_maps(tokens: Tensor) -> Tensor:
    """Return tokens in sequence [b, n, d] as maps of one row [b, 1, n, d], all else as it is."""
    return tokens[:, None] if tokens.ndim == 3 else tokens


def _refuse_padded(store: Store, feature_set: str, feature: str) -> None:
    if LENGTHS + feature in store.arrays(feature_set) and feature == PATCHES:
        raise UsageError(
            "heads take the same number of tokens of every sample",
            where=f"feature set {feature_set!r} of {store.where}",
            expected="feature maps, or sequences of one length",
            found=f"{LENGTHS}{PATCHES}: the numbers differ, and the rest is padding",
            hint="--head linear takes the embeddings",
        )


def _refuse_unpoolable(array: UnitArray, feature: str, pool: int) -> None:
    shape = array.array.shape[1:-1]
    if pool > 1 and (len(shape) != 2 or any(side % pool for side in shape)):
        grid = " x ".join(map(str, shape)) or "no grid"
        cells = f"{grid} cells"
        if len(shape) == 1:
            cells = f"a sequence of {counted(shape[0], 'token')}"
        raise UsageError(
            f"{feature} cannot be pooled over {pool} x {pool} cells",
            where="--pool",
            expected="a divisor of the grid's sides",
            found=cells,
            hint="leave out --pool" if len(shape) != 2 else f"--pool N that divides {grid}",
        )
