"""SimCLR of patch tokens: an image's tokens against what is nearest to them in other images.

Source: FUNGI, section 3.3 and appendix (in-context scene understanding); the reference code's
`combined_token_features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungistore.objectives.objective import (
    BankSpec,
    Heads,
    Needs,
    Neighbors,
    ViewOutputs,
    project,
    require_head_dim,
)
from fungistore.settings import require

REFERENCE_NEIGHBORS = 5  # that the reference code asks its index for, whatever it keeps of them
MOST_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 27}  # of anchors that are compared at once


@dataclass(frozen=True)
class PatchSimCLR:
    """InfoNCE of one image's tokens: all of them are positives, neighbours of others negatives.

    Attributes:
        temperature: 0.07 in the paper.
        head_dim: width of the head; 96 in the paper; 0: none, the loss is taken on tokens.
        negative_neighbors: nearest tokens of the support bank that each token gets; 2 in the paper.
        keep: each of them is a negative with this probability; 0.5 in the paper.
        negative_temperature: divide similarities by the temperature in the denominator too, as
            equation 5 has it. The reference code of segmentation does not, and where gradients
            gained anything it was without (docs/dense.md).
        support_images: images of the train split whose tokens are in the support bank.
        support_patches: random tokens of each of them.
        search: in the support bank: "exact", or "ivf" for large ones.
        embedding: count the image's embedding among the positives, as the reference code does with
            the class token; only where it is as wide as a token.
        pairing: "nearest"; or "scrambled", what the reference code makes of its neighbours by
            a wrong reshape, of unit length: for those who compare with published rows.
    """

    temperature: float = 0.07
    head_dim: int = 96
    negative_neighbors: int = 2
    keep: float = 0.5
    negative_temperature: bool = False
    support_images: int = 256
    support_patches: int = 16
    search: Literal["exact", "ivf"] = "exact"
    embedding: bool = False
    pairing: Literal["nearest", "scrambled"] = "nearest"

    name: ClassVar[str] = "patches/simclr"

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        require_head_dim(self.head_dim, f"{self.name}.head_dim")
        for field in ("support_images", "support_patches"):
            value = getattr(self, field)
            require(value > 0, f"{self.name}.{field}", "1 or more", value)
        most = REFERENCE_NEIGHBORS if self.pairing == "scrambled" else self.negative_neighbors
        is_possible = 0 <= self.negative_neighbors <= most
        expected = "0 or more" + (f", {most} at most" if self.pairing == "scrambled" else "")
        require(is_possible, f"{self.name}.negative_neighbors", expected, self.negative_neighbors)
        is_usable = 0 < self.temperature < inf
        require(is_usable, f"{self.name}.temperature", "a number above 0", self.temperature)
        require(0 < self.keep <= 1, f"{self.name}.keep", "a number above 0, 1 at most", self.keep)

    @property
    def needs(self) -> Needs:
        """One head of tokens, the tokens of other images, and a random number a neighbour."""
        count = REFERENCE_NEIGHBORS if self.pairing == "scrambled" else self.negative_neighbors
        bank = BankSpec("support", None, self.support_images, self.support_patches)
        has_negatives = self.negative_neighbors > 0
        return Needs(
            heads={},
            token_heads={"projection": self.head_dim},
            tokens=True,
            bank=bank if has_negatives else None,
            per_token=True,
            token_draws=max(1, self.negative_neighbors),
            neighbors=Neighbors(count, self.search) if has_negatives else None,
        )

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Float[Tensor, "b t k d"] | None
    ) -> Float[Tensor, " b"]:
        """Return the mean over an image's tokens of InfoNCE against the others and negatives."""
        head, tokens = heads.get("projection"), _tokens(views)
        if self.embedding:
            tokens = torch.cat([tokens, views.embeddings[:, :1]], dim=1)
        positives = nn.functional.normalize(project(tokens, head, normalize=False), dim=-1)
        negatives = positives[:, :0].detach()
        kept = torch.ones(negatives.shape[:2], dtype=torch.bool, device=positives.device)
        if bank is not None:
            near = scrambled(bank) if self.pairing == "scrambled" else bank
            near = near[:, :, : self.negative_neighbors].flatten(1, 2)
            latents = project(near, head, normalize=False)
            negatives = nn.functional.normalize(latents, dim=-1).detach()
            kept = (views.drawn[-1] < self.keep).to(positives.device)
        return self.info_nce(positives, negatives, kept)

    def latents(self, views: ViewOutputs, heads: Heads) -> Float[Tensor, "b n d"]:
        """Return some tokens of each image, as they are; the random numbers say which."""
        tokens = _tokens(views)
        draws = views.drawn[-1][:, : tokens.shape[1]].to(tokens.device)
        chosen = draws.argsort(dim=1, stable=True)[:, : self.support_patches]
        return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))

    def reduce(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the support bank: the tokens as they are."""
        return latents

    def info_nce(
        self,
        positives: Float[Tensor, "b p d"],
        negatives: Float[Tensor, "b n d"],
        kept: Bool[Tensor, "b n"],
    ) -> Float[Tensor, " b"]:
        """Return the loss of unit latents; `kept` says which of the negatives count."""
        count = positives.shape[1]
        total = positives.sum(dim=1, keepdim=True)
        pull = (positives * total).sum(-1) - positives.square().sum(-1)
        scale = self.temperature if self.negative_temperature else 1.0
        push: Any = _LogSumExp.apply(positives, negatives, kept, scale)
        loss: Tensor = (push - pull / (self.temperature * (count - 1))).mean(dim=1)
        return loss


def scrambled(near: Float[Tensor, "b t k d"]) -> Float[Tensor, "b t k d"]:
    """Return what the reference code takes for neighbours: every k-th number of all of them."""
    near = nn.functional.normalize(near, dim=-1)
    return near.flatten(2).unflatten(2, (near.shape[3], near.shape[2])).transpose(2, 3)


class _LogSumExp(torch.autograd.Function):
    """The denominator of InfoNCE, some anchors at a time, forward and backward.

    All logits of 1,369 tokens would be 22 MB, and autograd would keep several of such matrices.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, negatives: Tensor, kept: Tensor, scale: float) -> Tensor:
        """Return [b, p], the logarithm of each anchor's sum over the others and negatives."""
        sums = [logits.logsumexp(dim=2) for _, logits in _logits(z, negatives, kept, scale)]
        pushed = torch.cat(sums, dim=1)
        ctx.save_for_backward(z, negatives, kept, pushed)
        ctx.scale = scale
        return pushed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of `z`, as an anchor and as another's positive."""
        z, negatives, kept, pushed = ctx.saved_tensors
        back = torch.zeros_like(z)
        count = z.shape[1]
        for anchors, logits in _logits(z, negatives, kept, ctx.scale):
            weights = (logits - pushed[:, anchors, None]).exp_()
            weights *= grads[0][:, anchors, None] / ctx.scale
            back[:, anchors] += weights[:, :, :count] @ z + weights[:, :, count:] @ negatives
            back += weights[:, :, :count].mT @ z[:, anchors]
        return back, None, None, None


def _logits(z: Tensor, negatives: Tensor, kept: Tensor, scale: float) -> Any:
    """Yield (slice of anchors, their logits [b, anchors, p + n]); what does not count is -inf."""
    batch, count = z.shape[:2]
    others = torch.cat([z, negatives], dim=1).mT / scale
    most = MOST_LOGITS.get(z.device.type, MOST_LOGITS["cpu"])
    step = max(1, most // (batch * others.shape[2]))
    dropped = nn.functional.pad(~kept, (count, 0))[:, None]
    for start in range(0, count, step):
        anchors = slice(start, min(start + step, count))
        logits = (z[:, anchors] @ others).masked_fill_(dropped, -inf)
        rows = torch.arange(anchors.stop - start, device=z.device)
        logits[:, rows, rows + start] = -inf
        yield anchors, logits


def _tokens(views: ViewOutputs) -> Float[Tensor, "b t d"]:
    (grid,) = views.tokens
    return grid.tokens.flatten(1, -2)
