"""A recording as it is once decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True, eq=False)
class Recording:
    """One channel of sound.

    Attributes:
        samples: float32 [n]; a file's full scale is 1.
        rate: samples a second.
    """

    samples: Float32[np.ndarray, " n"]
    rate: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate
