"""iBOT: a student that lacks patches must say what a teacher makes of them (Zhou et al., 2022).

The FUNGI paper names this objective (figure 10) and gives no formula; this is the iBOT paper's own,
with the frozen backbone as student and teacher, and linear heads as FUNGI's DINO has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fungistore.errors import UsageError
from fungistore.modalities.requests import CropFamily, Crops, MaskedBlocks, Normalization
from fungistore.objectives.objective import (
    Heads,
    Needs,
    ViewOutputs,
    distilled,
    project,
    require_head_dim,
)
from fungistore.settings import require

OF_PATCHES = "patch_"  # before the names of heads of the patch term


@dataclass(frozen=True)
class IBOT:
    """Two crops, whole for the teacher and masked for the student, and two heads a term.

    The loss is class_weight * L_[CLS] (equation 2, between different crops) + patch_weight * L_MIM
    (equation 3, at the masked patches of the same crop). Neither centring nor an average of
    weights: nothing is trained. All of the student's crops are masked; iBOT's training leaves half
    of them whole, which then have no patch term.

    Attributes:
        student_temperature: 0.1 in the iBOT paper.
        teacher_temperature: 0.07, at which the iBOT paper's warm-up ends; it begins at 0.04.
        head_dim: width of the heads; 2048 as in FUNGI's DINO, 8192 in the iBOT paper; 0: none, the
            terms are taken on embeddings and tokens.
        normalize: L2-normalise embeddings and tokens before the heads.
        crops: that are seen whole and masked: twice as many forwards; 2 in the iBOT paper, beside
            local crops, which have no patch term.
        scale: least and greatest area of a crop, as a fraction of the image's.
        mask_ratio: least and greatest share of a crop's patches that are masked.
        mask_aspect: least ratio of the sides of a masked block; 0.3 in BEiT's and iBOT's code.
        class_weight: of the class term; 0 leaves it out.
        patch_weight: of the patch term; 0 leaves it out, and with it the tokens' gradients.
        normalization: pixel statistics: "model" (the backbone's) or "imagenet" (reference code).
        shared_head: student and teacher have one head a term, as an average of weights that has
            not begun would give them; else independent ones, as in FUNGI's DINO.
    """

    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    head_dim: int = 2048
    normalize: bool = True
    crops: int = 2
    scale: tuple[float, float] = (0.25, 1.0)
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    mask_aspect: float = 0.3
    class_weight: float = 1.0
    patch_weight: float = 1.0
    normalization: Normalization = "model"
    shared_head: bool = False

    name: ClassVar[str] = "ibot"

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        for name in ("student_temperature", "teacher_temperature"):
            value = getattr(self, name)
            require(0 < value < inf, f"ibot.{name}", "a number above 0", value)
        for name in ("class_weight", "patch_weight"):
            value = getattr(self, name)
            require(0 <= value < inf, f"ibot.{name}", "0 or more", value)
        for name in ("scale", "mask_ratio"):
            low, high = getattr(self, name)
            expected = "[LEAST, GREATEST], above 0 and up to 1"
            require(0 < low <= high <= 1, f"ibot.{name}", expected, [low, high])
        is_aspect = 0 < self.mask_aspect <= 1
        require(is_aspect, "ibot.mask_aspect", "above 0 and up to 1", self.mask_aspect)
        require_head_dim(self.head_dim, "ibot.head_dim")
        can_be_shared = self.head_dim > 0 or not self.shared_head
        expected = "false where ibot.head_dim is 0: there is no head"
        require(can_be_shared, "ibot.shared_head", expected, self.shared_head)
        require(self.crops > 0, "ibot.crops", "1 or more", self.crops)
        if self.class_weight == self.patch_weight == 0:
            raise UsageError(
                "the loss has no term",
                where="ibot.class_weight, ibot.patch_weight",
                expected="one of them above 0",
                found=0,
                hint="--set ibot.patch_weight=1",
            )

    @property
    def request(self) -> MaskedBlocks:
        """The crops, and what is masked of them."""
        crops = Crops((CropFamily(self.crops, self.scale),), self.normalization)
        return MaskedBlocks(crops, self.mask_ratio, self.mask_aspect)

    @property
    def needs(self) -> Needs:
        """A student's and a teacher's head a term; tokens for the patch term alone."""
        names = ("student",) if self.shared_head else ("student", "teacher")
        of_patches = [OF_PATCHES + name for name in names]
        return Needs(
            heads=dict.fromkeys(names if self.class_weight else (), self.head_dim),
            token_heads=dict.fromkeys(of_patches if self.patch_weight else (), self.head_dim),
            views=self.request,
            tokens=self.patch_weight > 0,
        )

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        """Return the weighted sum of the terms; of the views, whole crops come first."""
        losses = views.embeddings.new_zeros(len(views.embeddings))
        if self.class_weight:
            whole, masked = views.embeddings.split(self.crops, dim=1)
            student, teacher = self._latents(masked, whole, heads)
            losses = losses + self.class_weight * self.class_term(student, teacher)
        if self.patch_weight:
            (grid,) = views.tokens
            whole, masked = grid.tokens.flatten(2, -2).split(self.crops, dim=1)
            places, counted = self._masked(views.drawn[-1].flatten(2).to(masked.device))
            of_places = _at(masked, places), _at(whole, places)
            student, teacher = self._latents(*of_places, heads, OF_PATCHES)
            losses = losses + self.patch_weight * self.patch_term(student, teacher, counted)
        return losses

    def _latents(
        self, masked: Float[Tensor, "b ... d"], whole: Tensor, heads: Heads, kind: str = ""
    ) -> tuple[Float[Tensor, "b ... k"], Float[Tensor, "b ... k"]]:
        """Return the head outputs of the student, and of the teacher, who learns nothing."""
        student = heads.get(f"{kind}student")
        teacher = student if self.shared_head else heads.get(f"{kind}teacher")
        return (
            project(masked, student, normalize=self.normalize),
            project(whole.detach(), teacher, normalize=self.normalize),
        )

    def class_term(
        self, student: Float[Tensor, "b c k"], teacher: Float[Tensor, "b c k"]
    ) -> Float[Tensor, " b"]:
        """Return the mean cross-entropy between head outputs of different crops.

        With one crop there is no other: then it is that of the crop with itself.
        """
        pairs = self.cross_entropy(student[:, None], teacher[:, :, None])  # teacher's, student's
        if self.crops > 1:
            itself = torch.eye(self.crops, dtype=torch.bool, device=pairs.device)
            pairs = pairs[:, ~itself]
        return pairs.flatten(1).mean(dim=1)

    def patch_term(
        self,
        student: Float[Tensor, "b c p k"],
        teacher: Float[Tensor, "b c p k"],
        counted: Bool[Tensor, "b c p"],
    ) -> Float[Tensor, " b"]:
        """Return the cross-entropies' mean over a crop's counted patches, and then over crops."""
        each = self.cross_entropy(student, teacher) * counted
        return (each.sum(dim=2) / counted.sum(dim=2)).mean(dim=1)

    def cross_entropy(
        self, student: Float[Tensor, "... k"], teacher: Float[Tensor, "... k"]
    ) -> Float[Tensor, ...]:
        """Return -sum(q log p) of head outputs: q the teacher's, p the student's softmax."""
        temperatures = self.student_temperature, self.teacher_temperature
        log_p, target = distilled(student, teacher, *temperatures)
        return -(target * log_p).sum(dim=-1)

    def _masked(
        self, masks: UInt8[Tensor, "b c t"]
    ) -> tuple[Int[Tensor, "b c p"], Bool[Tensor, "b c p"]]:
        """Return p places of each crop, the masked ones first, and which of them are masked.

        p is how many a crop can have: heads see no more tokens than they must, and as many of every
        crop, so that none depends on its company.
        """
        _, most = self.request.counts(masks.shape[2])
        counted, places = masks.sort(dim=2, descending=True, stable=True)
        return places[..., :most], counted[..., :most].bool()


def _at(tokens: Float[Tensor, "b c t d"], places: Tensor) -> Float[Tensor, "b c p d"]:
    """Return the tokens at some places of each crop."""
    return tokens.gather(2, places[..., None].expand(-1, -1, -1, tokens.shape[-1]))
