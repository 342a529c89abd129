"""SimCLR of texts: a sentence without some of its words is still itself (FUNGI, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fungistore.modalities.requests import WordDeletions
from fungistore.objectives.info_nce import Contrast
from fungistore.settings import require


@dataclass(frozen=True, kw_only=True)
class TextSimCLR(Contrast):
    """Twelve copies of a text, each without a tenth of its words, against other texts' copies.

    Attributes:
        views: copies; 12 in the paper.
        deletion: how likely a word is left out, or which share of them; 0.1 in the paper.
        rule: "independent": each word by itself (the paper); "share": ceil(deletion * words), one
            to ten of them (its code).
        head_dim: width of the head; 256 in the paper.
        negatives: texts whose copies are the negatives; 256 in the paper, two copies of each.
    """

    views: int = 12
    deletion: float = 0.1
    rule: Literal["independent", "share"] = "independent"
    head_dim: int = 256
    negatives: int = 256

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        super().__post_init__()
        is_share = 0 < self.deletion < 1
        require(is_share, "simclr.deletion", "a number between 0 and 1", self.deletion)

    @property
    def request(self) -> WordDeletions:
        """Copies without some of the words."""
        return WordDeletions(self.views, self.deletion, self.rule)
