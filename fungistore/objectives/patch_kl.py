"""KL divergence of each patch token's head output from the uniform distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from fungistore.objectives.kl import KL
from fungistore.objectives.objective import Heads, Needs, ViewOutputs, project


@dataclass(frozen=True)
class PatchKL(KL):
    """The loss of `kl` (FUNGI, eq. 6) on tokens in the embedding's place: no negatives, no bank.

    Attributes:
        temperature: divides the logits; 15 in the paper.
        head_dim: width of the head; 768 in the paper; 0: none, the loss is taken on tokens.
        normalize: L2-normalise tokens before the head.
        direction: as of `kl`.
    """

    name: ClassVar[str] = "patches/kl"

    @property
    def needs(self) -> Needs:
        """One head of tokens; the loss is taken on the view that patch tensors are made from."""
        return Needs(
            heads={}, token_heads={"projection": self.head_dim}, tokens=True, per_token=True
        )

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        """Return the mean of the divergences of an image's tokens."""
        (grid,) = views.tokens
        tokens = grid.tokens.flatten(1, -2)
        latents = project(tokens, heads.get("projection"), normalize=self.normalize)
        return self.divergence(latents.flatten(0, 1)).unflatten(0, latents.shape[:2]).mean(1)
