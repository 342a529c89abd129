"""SimCLR: an image's windows must be closer to each other than to other images' (FUNGI, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isqrt
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from fungistore.modalities.requests import Normalization, Windows
from fungistore.objectives.info_nce import info_nce
from fungistore.objectives.objective import (
    BankSpec,
    Heads,
    Needs,
    ViewOutputs,
    project,
    require_head_dim,
)
from fungistore.settings import require


@dataclass(frozen=True)
class SimCLR:
    """Forty-nine windows, one head, InfoNCE against a fixed set of negatives.

    Attributes:
        temperature: 0.07 in the paper.
        head_dim: width of the head; 96 in the paper; 0: none, latents are the embeddings.
        base_patches: windows that would tile the image; 4 in the paper, so a window is half a side.
        stride_scale: a stride is a window's side divided by it; 6 in the paper.
        negatives: images whose windows are the negatives; 256 in the paper (256 x 49 latents).
        negative_temperature: divide similarities by the temperature in the denominator too (the
            paper's equation and its vision code); False is the paper's text and audio code.
        normalize: L2-normalise embeddings before the head; the loss normalises latents in any case.
        normalization: pixel statistics: "model" (the backbone's) or "imagenet" (reference code).
    """

    temperature: float = 0.07
    head_dim: int = 96
    base_patches: int = 4
    stride_scale: int = 6
    negatives: int = 256
    negative_temperature: bool = True
    normalize: bool = False
    normalization: Normalization = "model"

    name: ClassVar[str] = "simclr"

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        tiles = self.base_patches
        is_square = tiles >= 4 and isqrt(tiles) ** 2 == tiles
        require(is_square, "simclr.base_patches", "a square number: 4, 9, 16, ...", tiles)
        is_usable = 0 < self.temperature < inf
        require(is_usable, "simclr.temperature", "a number above 0", self.temperature)
        require_head_dim(self.head_dim, "simclr.head_dim")
        require(self.stride_scale > 0, "simclr.stride_scale", "1 or more", self.stride_scale)
        require(self.negatives >= 0, "simclr.negatives", "0 or more", self.negatives)

    @property
    def needs(self) -> Needs:
        """Windows of one size, one head, and other images' latents."""
        spec = BankSpec("negatives", self.head_dim, self.negatives)
        return Needs(
            heads={"projection": self.head_dim},
            views=Windows(self.base_patches, self.stride_scale, self.normalization),
            bank=spec if self.negatives else None,
        )

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Float[Tensor, "n d"] | None
    ) -> Float[Tensor, " b"]:
        """Return the mean over an image's windows of InfoNCE against the other windows."""
        latents = self.latents(views, heads)
        if bank is None:
            bank = latents.new_zeros(0, latents.shape[-1])
        return self.info_nce(latents, bank)

    def latents(self, views: ViewOutputs, heads: Heads) -> Float[Tensor, "b v d"]:
        """Return the head's outputs, not normalised."""
        return project(views.embeddings, heads.get("projection"), normalize=self.normalize)

    def reduce(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the negatives: the latents as they are."""
        return latents

    def info_nce(
        self, positives: Float[Tensor, "b p d"], negatives: Float[Tensor, "n d"]
    ) -> Float[Tensor, " b"]:
        """Return the loss of head outputs; see `info_nce`."""
        return info_nce(
            positives,
            negatives,
            self.temperature,
            negative_temperature=self.negative_temperature,
        )
