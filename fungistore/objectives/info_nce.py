"""InfoNCE: a sample's views must be closer to each other than to other samples' (FUNGI, eq. 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungistore.objectives.objective import (
    BankSpec,
    Heads,
    Needs,
    ViewOutputs,
    project,
    require_head_dim,
)
from fungistore.settings import require


def info_nce(
    positives: Float[Tensor, "b p d"],
    negatives: Float[Tensor, "n d"],
    temperature: float,
    *,
    negative_temperature: bool,
) -> Float[Tensor, " b"]:
    """Return the loss of head outputs: each anchor against other positives and negatives.

    Args:
        positives: a sample's views.
        negatives: other samples'.
        temperature: divides the similarities of positives.
        negative_temperature: it divides those of the denominator, too.
    """
    positives = nn.functional.normalize(positives, dim=-1)
    negatives = nn.functional.normalize(negatives, dim=-1)
    among = positives @ positives.transpose(1, 2)
    against = positives @ negatives.T
    count = among.shape[1]
    itself = torch.eye(count, dtype=torch.bool, device=among.device)
    pull = among.masked_fill(itself, 0).sum(dim=2) / (temperature * (count - 1))
    scale = temperature if negative_temperature else 1.0
    others = among.masked_fill(itself, float("-inf"))
    push = torch.cat([others, against], dim=2).div(scale).logsumexp(dim=2)
    return (push - pull).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class Contrast(ABC):
    """The base of objectives that contrast random views of a sample with a few of other samples.

    Attributes:
        views: of a sample, each an anchor and a positive of the others.
        temperature: 0.07 in the paper.
        head_dim: width of the head; 0: none, latents are the embeddings.
        negatives: samples whose views are the negatives.
        negative_views: views of each of them.
        negative_temperature: divide similarities by the temperature in the denominator too (the
            paper's equation); False is the paper's text and audio code.
        normalize: L2-normalise embeddings before the head; the loss normalises latents in any case.
    """

    views: int
    temperature: float = 0.07
    head_dim: int
    negatives: int
    negative_views: int = 2
    negative_temperature: bool = True
    normalize: bool = False

    name: ClassVar[str] = "simclr"

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        require(self.views > 1, "simclr.views", "2 or more", self.views)
        is_usable = 0 < self.temperature < inf
        require(is_usable, "simclr.temperature", "a number above 0", self.temperature)
        require_head_dim(self.head_dim, "simclr.head_dim")
        require(self.negatives >= 0, "simclr.negatives", "0 or more", self.negatives)
        has_so_many = 1 <= self.negative_views <= self.views
        expected = f"1 to simclr.views, {self.views}"
        require(has_so_many, "simclr.negative_views", expected, self.negative_views)

    @property
    @abstractmethod
    def request(self) -> Any:
        """The views, as a modality makes them."""

    @property
    def needs(self) -> Needs:
        """Random views, one head, and other samples' latents."""
        spec = BankSpec("negatives", self.head_dim, self.negatives, self.negative_views)
        return Needs(
            heads={"projection": self.head_dim},
            views=self.request,
            bank=spec if self.negatives else None,
        )

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Float[Tensor, "n d"] | None
    ) -> Float[Tensor, " b"]:
        """Return the mean over a sample's views of InfoNCE against the others."""
        latents = project(views.embeddings, heads.get("projection"), normalize=self.normalize)
        negatives = latents.new_zeros(0, latents.shape[-1]) if bank is None else bank
        return info_nce(
            latents, negatives, self.temperature, negative_temperature=self.negative_temperature
        )

    def latents(self, views: ViewOutputs, heads: Heads) -> Float[Tensor, "b v d"]:
        """Return the head's outputs of the first views, not normalised."""
        some = views.embeddings[:, : self.negative_views]
        return project(some, heads.get("projection"), normalize=self.normalize)

    def reduce(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the negatives: the latents as they are."""
        return latents
