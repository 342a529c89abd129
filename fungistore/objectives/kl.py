"""KL divergence between a head's output and the uniform distribution (FUNGI, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fungistore.objectives.objective import Heads, Needs, ViewOutputs, project, require_head_dim
from fungistore.settings import require


@dataclass(frozen=True)
class KL:
    """One view, one head; the cheapest objective, since it shares the embedding's forward.

    Attributes:
        temperature: divides the logits; 15 in the paper.
        head_dim: width of the head; 768 in the paper; 0: none, the loss is taken on the embedding.
        normalize: L2-normalise the embedding before the head.
        direction: "uniform-first" is KL(U || p), the reference code; "uniform-last" is KL(p || U),
            the paper's equation. Their gradients have a cosine of 0.999999 at initialisation.
    """

    temperature: float = 15.0
    head_dim: int = 768
    normalize: bool = True
    direction: Literal["uniform-first", "uniform-last"] = "uniform-first"

    name: ClassVar[str] = "kl"

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        require(0 < self.temperature < inf, "kl.temperature", "a number above 0", self.temperature)
        require_head_dim(self.head_dim, "kl.head_dim")

    @property
    def needs(self) -> Needs:
        """One head; the loss is taken on the view that the embedding is made from."""
        return Needs(heads={"projection": self.head_dim})

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        """Return the divergence divided by the head's width, as PyTorch's "mean" reduction does."""
        latents = project(views.embeddings[:, 0], heads.get("projection"), normalize=self.normalize)
        return self.divergence(latents)

    def divergence(self, latents: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Return the loss of head outputs.

        At a fresh head p differs from uniform in the third digit only, and the gradient is that
        difference: float64 keeps it from cancelling (Apple's devices have none).
        """
        exact = torch.float32 if latents.device.type == "mps" else torch.float64
        log_p = (latents.to(exact) / self.temperature).log_softmax(dim=-1)
        log_u = -log(latents.shape[-1])
        if self.direction == "uniform-first":
            return (log_u - log_p).mean(dim=-1).float() / latents.shape[-1]
        return (log_p.exp() * (log_p - log_u)).mean(dim=-1).float()
