"""What the training loop is given: a module, its batches, its loss, and how good it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from fungistore.store.samples import Rows

Tensors = dict[str, Tensor]


class TrainingBatch(Protocol):
    """Some rows of an epoch."""

    @property
    def rows(self) -> Rows:
        """Their numbers [b]."""


AnyBatch = TypeVar("AnyBatch", bound=TrainingBatch)


class Task(Protocol[AnyBatch]):
    """Something to be trained; everything random in it comes from (seed, epoch, step)."""

    @property
    def module(self) -> nn.Module:
        """What is trained, with whatever of it is frozen; on its device from `begin` on."""

    @property
    def rows(self) -> int:
        """Rows of an epoch."""

    @property
    def steps(self) -> int:
        """Batches of an epoch."""

    def begin(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Make the module ready, on its device: for a new training, or with a `state`."""

    def state(self) -> Tensors:
        """Return what a checkpoint keeps of the module: live tensors, not copies."""

    def groups(self) -> list[dict[str, Any]]:
        """Return parameter groups for AdamW.

        A group may have an `lr_scale`, which all its learning rates are multiplied with.
        """

    def batches(self, epoch: int, start_step: int) -> Iterator[AnyBatch]:
        """Yield the batches of an epoch, from a step on."""

    def gradients(self, batch: AnyBatch, epoch: int, step: int) -> Tensor:
        """Give the parameters the gradients of a batch's mean loss, and return the loss.

        The module is in training mode, its parameters have none yet, and torch's generator is
        seeded for the step.
        """

    def validate(self) -> dict[str, float]:
        """Return metrics of the validation rows."""
