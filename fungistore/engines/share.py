"""What a worker is given of a node, and how many workers fit on one."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from fungistore.fingerprint import Config


@dataclass(frozen=True)
class Share:
    """What one worker is given of its node.

    Attributes:
        cpus: cores.
        gpus: GPUs, or a part of one.
        device: that it computes on; None for the one that the work's own options name.
    """

    cpus: int
    gpus: float
    device: str | None

    def fits(self, resources: Config) -> int:
        """Return how many workers fit on a node with such resources."""
        by_cores = floor(resources.get("CPU", 0) / self.cpus)
        gpus = resources.get("GPU", 0)
        if not self.gpus:
            return by_cores
        by_gpus = floor(gpus) * floor(1 / self.gpus) if self.gpus < 1 else floor(gpus / self.gpus)
        return min(by_cores, by_gpus)

    def __str__(self) -> str:
        cores = f"{self.cpus} core{'s' * (self.cpus != 1)}"
        return f"{cores} and {self.gpus:g} GPU{'s' * (self.gpus > 1)}" if self.gpus else cores
