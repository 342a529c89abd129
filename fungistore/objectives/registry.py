"""The objectives by name."""

from __future__ import annotations

from typing import Any

from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.simclr import SimCLR

OBJECTIVES: dict[str, type[Any]] = {objective.name: objective for objective in (KL, DINO, SimCLR)}
