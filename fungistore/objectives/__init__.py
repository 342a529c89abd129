"""Self-supervised objectives whose per-sample gradients become features."""

from typing import Any

from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ContrastiveObjective, Heads, Objective
from fungistore.objectives.simclr import SimCLR

OBJECTIVES: dict[str, type[Any]] = {objective.name: objective for objective in (KL, DINO, SimCLR)}

__all__ = ["DINO", "KL", "OBJECTIVES", "ContrastiveObjective", "Heads", "Objective", "SimCLR"]
