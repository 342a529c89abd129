"""Masked language modelling: from the words around it, which word was it? (FUNGI, future work)

Source: Devlin et al. 2019 (BERT), section 3.1, "Task #1: Masked LM".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fungistore.backbones.encoder import Encoder
from fungistore.backbones.word_head import Carried, WordHead, carried_head
from fungistore.modalities.requests import MaskedWords
from fungistore.objectives.objective import WORDS, Heads, Needs, ViewOutputs
from fungistore.settings import require

FOUND = {
    "weights": "the one that the weights carry",
    "embeddings": "the word embeddings, since the weights carry no head of words",
    "random": "the weights carry none, and no word embeddings as wide as a token",
}
MOST_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 27}  # of masked pieces that are compared at once


@dataclass(frozen=True)
class MLM:
    """The cross-entropy of the pieces that were masked, in copies of a text, by their tokens.

    A chosen piece is masked and nothing else by default. BERT leaves some of them as they are, or
    puts any other in their place, because a model that is tuned afterwards never meets a mask;
    here nothing is tuned, and random pieces would be noise in a feature (`rule="bert"` has them).

    Attributes:
        views: copies of a text.
        masked: share of its pieces that is masked in each of them, at least one; 0.15 in BERT.
        rule: "mask": all of them by the mask token; "bert": 80 of 100 so, 10 by a random piece,
            10 not at all.
        head: "weights": the one that the weights carry, with which the model was trained;
            "embeddings": the model's word embeddings, read the other way, as T5 does; "random":
            one linear layer, as the other objectives have; "auto": the first of them that there is.
        head_dim: width of a random head. Pieces whose numbers are equal modulo it are one class:
            vocabularies begin with what is frequent, so frequent pieces have classes of their own.
    """

    views: int = 4
    masked: float = 0.15
    rule: Literal["mask", "bert"] = "mask"
    head: Literal["auto", "weights", "embeddings", "random"] = "auto"
    head_dim: int = 2048

    name: ClassVar[str] = "mlm"

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        require(self.views > 0, "mlm.views", "1 or more", self.views)
        require(0 < self.masked <= 1, "mlm.masked", "a number above 0, 1 at most", self.masked)
        expected = "1 or more: a token is no word by itself; mlm.head=embeddings has no random head"
        require(self.head_dim > 0, "mlm.head_dim", expected, self.head_dim)

    @property
    def needs(self) -> Needs:
        """Copies with masked pieces, their tokens, and a head of them."""
        carried: Carried | None = None
        if self.head == "weights" or self.head == "embeddings":
            carried = self.head
        return Needs(
            heads={},
            token_heads={} if carried else {WORDS: self.head_dim},
            views=MaskedWords(self.views, self.masked, self.rule),
            tokens=True,
            word_head=carried,
        )

    def decided(self, encoder: Encoder) -> tuple[MLM, str]:
        """Return the objective with a head that an encoder has, and which it is, in words.

        Raises:
            UsageError: the head of its weights is not whole.
        """
        if self.head != "auto":
            return self, ""
        for which in get_args(Carried):
            if carried_head(encoder, which) is not None:
                return replace(self, head=which), f"mlm.head={which}: {FOUND[which]}"
        return replace(self, head="random"), f"mlm.head=random: {FOUND['random']}"

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        """Return the mean cross-entropy of a text's masked pieces; 0 where none could be masked."""
        (grid,) = views.tokens
        places, pieces = (array.to(grid.tokens.device).long() for array in views.drawn[-2:])
        index = places[..., None].expand(-1, -1, -1, grid.tokens.shape[-1])
        tokens = grid.tokens.gather(2, index)
        is_there = pieces >= 0
        head = heads[WORDS]
        classes = pieces.clamp_min(0) % head.out_features
        latents = head.before(tokens) if isinstance(head, WordHead) else tokens
        found: Any = _CrossEntropy.apply(
            latents.flatten(0, 2), head.weight, head.bias, classes.flatten()
        )
        each = found.view(classes.shape) * is_there
        count = is_there.sum(dim=(1, 2)).clamp_min(1)
        loss: Tensor = each.sum(dim=(1, 2)) / count
        return loss


class _CrossEntropy(torch.autograd.Function):
    """Of linear layers of many classes, some rows at a time, forward and backward.

    All logits of a batch's masked pieces, of 250,000 classes, would be gigabytes, and autograd
    would keep several of such matrices. What comes back to a row is made beside its loss instead.
    """

    @staticmethod
    def forward(
        ctx: Any,
        latents: Float[Tensor, "m h"],
        weight: Float[Tensor, "p h"],
        bias: Float[Tensor, " p"],
        classes: Int[Tensor, " m"],
    ) -> Float[Tensor, " m"]:
        """Return each row's cross-entropy."""
        most = MOST_LOGITS.get(latents.device.type, MOST_LOGITS["cpu"])
        step = max(1, most // len(weight))
        losses, back = [], torch.empty_like(latents)
        for start in range(0, len(latents), step):
            rows = slice(start, start + step)
            logits = torch.addmm(bias, latents[rows], weight.T)
            total = logits.logsumexp(dim=1, keepdim=True)
            own = classes[rows, None]
            losses.append((total - logits.gather(1, own))[:, 0])
            chances = logits.sub_(total).exp_()
            chances.scatter_add_(1, own, -torch.ones_like(total))
            back[rows] = chances @ weight
        ctx.save_for_backward(back)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of `latents`."""
        (back,) = ctx.saved_tensors
        return grads[0][:, None] * back, None, None, None
