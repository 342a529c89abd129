"""Full fine-tuning: everything is trained, and nothing is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Full:
    """All parameters of a model; any model of timm's."""

    name: ClassVar[str] = "full"
    learning_rate: ClassVar[float] = 2e-4

    def attach(self, model: Any, *, seed: int) -> None:
        """Let everything be trained."""
        model.requires_grad_(True)

    def merge(self, model: Any) -> None:
        """Leave the model as it is: what was trained are its own weights."""
