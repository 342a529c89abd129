"""SimCLR of recordings: noise and a roll along time change nothing (FUNGI, section 4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from fungistore.modalities.requests import NoisyRolls
from fungistore.objectives.info_nce import Contrast
from fungistore.settings import require


@dataclass(frozen=True, kw_only=True)
class AudioSimCLR(Contrast):
    """Sixteen noisy and rolled copies of a recording, against other recordings' copies.

    Attributes:
        views: copies; 16 in the paper.
        noise: U(0, 1) a cell of the filter banks, times a U(0, 1) a copy, times this, is added.
        roll: frames by which a copy is rolled: from -roll to roll - 1.
        noise_before: noise is added before the filter banks are standardised (the paper's code);
            False: after it (SSAST's), where it is about eleven times stronger.
        head_dim: width of the head; 768 in the paper.
        negatives: recordings whose copies are the negatives; 64 in the paper, two copies of each.
    """

    views: int = 16
    noise: float = 0.1
    roll: int = 10
    noise_before: bool = True
    head_dim: int = 768
    negatives: int = 64

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        super().__post_init__()
        require(0 <= self.noise < inf, "simclr.noise", "0 or more", self.noise)
        require(self.roll >= 0, "simclr.roll", "0 or more", self.roll)

    @property
    def request(self) -> NoisyRolls:
        """Noisy copies, rolled along time."""
        return NoisyRolls(self.views, self.noise, self.roll, self.noise_before)
