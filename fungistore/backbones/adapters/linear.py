"""The frozen model, with a linear classifier on its embedding: nothing of it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Linear:
    """Nothing of a model; any model of timm's."""

    name: ClassVar[str] = "linear"
    learning_rate: ClassVar[float] = 1e-2

    def attach(self, model: Any, *, seed: int) -> None:
        """Freeze the model."""
        model.requires_grad_(False)

    def merge(self, model: Any) -> None:
        """Leave the model as it is."""
