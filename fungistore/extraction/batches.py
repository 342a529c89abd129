"""A batch of drawn items: in groups of one shape, and in pieces that are recorded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fungistore.extraction.drawing import DrawnViews
from fungistore.modalities.views import Drawn, DrawnBatch

PROJECTED_AT_ONCE = 128  # samples whose gradients a CPU holds before they are projected


@dataclass(frozen=True)
class DrawnGroup:
    """Samples of a batch whose drawn arrays have one shape, so that they are computed together.

    Attributes:
        places: of the samples in the batch.
        arrays: what was drawn for them, [b, ...].
    """

    places: tuple[int, ...]
    arrays: DrawnBatch


BatchViews = dict[str, tuple[DrawnGroup, ...]]  # of a batch's items, by the name of the views


@dataclass(frozen=True)
class Slice:
    """Samples of one group, from one on, that are recorded together: so many, filled up."""

    group: DrawnGroup
    start: int
    count: int

    @property
    def places(self) -> tuple[int, ...]:
        """Their places in the batch, without those of copies that fill it up."""
        return self.group.places[self.start : self.start + self.count]


def in_runs(slices: Sequence[Slice], device: torch.device) -> Iterator[Sequence[Slice]]:
    """Yield pieces in runs, whose gradients are projected together."""
    if device.type != "cpu":
        yield slices
        return
    run: list[Slice] = []
    for piece in slices:
        run.append(piece)
        if sum(len(one.places) for one in run) >= PROJECTED_AT_ONCE:
            yield run
            run = []
    if run:
        yield run


def joined(places: Sequence[tuple[int, ...]], parts: Sequence[Tensor]) -> Tensor:
    """Return rows of parts, without copies that fill them up, in the order of the batch."""
    rows = torch.cat([part[: len(some)] for some, part in zip(places, parts, strict=True)])
    order = [place for some in places for place in some]
    if order == sorted(order):
        return rows
    return rows[torch.tensor(order, device=rows.device).argsort()]


def stack_padded(arrays: Sequence[NDArray[Any]]) -> Tensor:
    """Stack arrays; those of different shapes are padded with zeros at the end of each axis."""
    shape = np.max([array.shape for array in arrays], axis=0)
    if all(array.shape == tuple(shape) for array in arrays):
        return torch.from_numpy(np.stack(arrays))
    stacked = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for place, array in zip(stacked, arrays, strict=True):
        place[tuple(map(slice, array.shape))] = array
    return torch.from_numpy(stacked)


def stack_drawn(
    items: Sequence[DrawnViews], *, by_shape: bool = False, pinned: bool = False
) -> BatchViews:
    """Put drawn items together as one batch.

    Args:
        items: in the order of the batch.
        by_shape: items whose arrays have other shapes are groups of their own, the largest first;
            else all are one group, padded to one shape.
        pinned: in memory from which a GPU copies while it computes.
    """
    batch: BatchViews = {}
    for name in items[0]:
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, drawn in enumerate(items):
            shape = tuple(array.shape for array in drawn[name]) if by_shape else ()
            groups.setdefault(shape, []).append(place)
        batch[name] = tuple(
            DrawnGroup(tuple(places), _stacked([items[one][name] for one in places], pinned=pinned))
            for _, places in sorted(groups.items(), reverse=True)
        )
    return batch


def _stacked(items: Sequence[Drawn], *, pinned: bool) -> DrawnBatch:
    stacked = map(stack_padded, zip(*items, strict=True))
    return tuple(tensor.pin_memory() if pinned else tensor for tensor in stacked)
