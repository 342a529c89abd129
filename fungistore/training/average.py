"""A moving average of weights, which often generalises better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from fungistore.training.task import Tensors


class WeightAverage:
    """An exponential moving average of floating-point tensors (Polyak and Juditsky, 1992).

    Early on it follows faster, as timm's does: the decay of update n is at most (1 + n) / (10 + n).

    Args:
        live: the tensors that training changes; kept, and read at each update.
        decay: of the average.
        stored: an average to go on from; None: it begins with the live tensors.
    """

    def __init__(
        self, live: Tensors, decay: float, stored: Mapping[str, Tensor] | None = None
    ) -> None:
        self._live = {name: t for name, t in live.items() if t.is_floating_point()}
        self._decay = decay
        begin = self._live if stored is None else stored
        self.tensors: Tensors = {
            name: begin[name].detach().to(live.device).clone() for name, live in self._live.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the live tensors after a step, counted from 0 over the whole training."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages = list(self.tensors.values())
        torch._foreach_lerp_(averages, [t.detach() for t in self._live.values()], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the place of the live tensors for a while."""
        kept = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._copy(self.tensors)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, tensors: Tensors) -> None:
        for name, live in self._live.items():
            live.copy_(tensors[name])
