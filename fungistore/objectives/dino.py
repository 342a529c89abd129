"""DINO: a student's crops must agree with a teacher's global crops (FUNGI, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fungistore.modalities.requests import Changes, CropFamily, Crops, Normalization
from fungistore.objectives.objective import (
    Heads,
    Needs,
    ViewOutputs,
    distilled,
    project,
    require_head_dim,
)
from fungistore.settings import require

# How likely a crop is blurred and solarised: the first global one, further ones, and local ones.
# Source: Caron et al., "Emerging properties in self-supervised vision transformers", 2021, and its
# code's DataAugmentationDINO; after BYOL (Grill et al., 2020, appendix B).
FIRST = Changes(blur=1.0)
SECOND = Changes(blur=0.1, solarise=0.2)
LOCAL = Changes(blur=0.5)


@dataclass(frozen=True)
class DINO:
    """Twelve crops and two independent heads; student and teacher are the same frozen backbone.

    Neither centring nor an average of weights: nothing is trained. Pairs of the same view are
    kept, as in the reference code (its authors found the gradients more predictive).

    Attributes:
        student_temperature: 0.1 in the paper.
        teacher_temperature: 0.07 in the paper.
        head_dim: width of both heads; 2048 in the paper; 0: none, outputs are the embeddings.
        normalize: L2-normalise embeddings before the heads.
        global_crops: crops that the teacher sees; the student sees all crops.
        local_crops: crops that only the student sees.
        global_scale: least and greatest area of a global crop, as a fraction of the image's.
        local_scale: the same for local crops.
        same_view_pairs: keep the pairs in which teacher and student see the same crop.
        normalization: pixel statistics: "model" (the backbone's) or "imagenet" (reference code).
        shared_head: student and teacher have one head, the student's (FUNGI, table 18, left).
        augment: "crops" alone, the paper's choice; or "full", DINO's own augmentation (table 18,
            right): crops are flipped, jittered in colour, greyed, blurred and solarised at random.
    """

    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    head_dim: int = 2048
    normalize: bool = True
    global_crops: int = 2
    local_crops: int = 10
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)
    same_view_pairs: bool = True
    normalization: Normalization = "model"
    shared_head: bool = False
    augment: Literal["crops", "full"] = "crops"

    name: ClassVar[str] = "dino"
    later: ClassVar[frozenset[str]] = frozenset({"shared_head", "augment"})

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        for name in ("student_temperature", "teacher_temperature"):
            value = getattr(self, name)
            require(0 < value < inf, f"dino.{name}", "a number above 0", value)
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            expected = "[LEAST, GREATEST], above 0 and up to 1"
            require(0 < low <= high <= 1, f"dino.{name}", expected, [low, high])
        require_head_dim(self.head_dim, "dino.head_dim")
        can_be_shared = self.head_dim > 0 or not self.shared_head
        expected = "false where dino.head_dim is 0: there is no head"
        require(can_be_shared, "dino.shared_head", expected, self.shared_head)
        require(self.global_crops > 0, "dino.global_crops", "1 or more", self.global_crops)
        require(self.local_crops >= 0, "dino.local_crops", "0 or more", self.local_crops)

    @property
    def needs(self) -> Needs:
        """Global crops, then local ones, and two independent heads, or one."""
        families = [CropFamily(self.global_crops, self.global_scale)]
        if self.local_crops:
            families.append(CropFamily(self.local_crops, self.local_scale))
        heads = ("student",) if self.shared_head else ("student", "teacher")
        changes = (FIRST, *[SECOND] * (self.global_crops - 1), *[LOCAL] * self.local_crops)
        return Needs(
            heads=dict.fromkeys(heads, self.head_dim),
            views=Crops(
                tuple(families), self.normalization, changes if self.augment == "full" else ()
            ),
        )

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Tensor | None = None
    ) -> Float[Tensor, " b"]:
        """Return the sum of the cross-entropies of all pairs (teacher view, student view)."""
        embeddings = views.embeddings
        student = project(embeddings, heads.get("student"), normalize=self.normalize)
        global_views = embeddings[:, : self.global_crops].detach()
        teacher_head = heads.get("student" if self.shared_head else "teacher")
        teacher = project(global_views, teacher_head, normalize=self.normalize)
        return self.cross_entropy(student, teacher)

    def cross_entropy(
        self, student: Float[Tensor, "b v d"], teacher: Float[Tensor, "b g d"]
    ) -> Float[Tensor, " b"]:
        """Return the loss of head outputs; the first g student views are the teacher's."""
        temperatures = self.student_temperature, self.teacher_temperature
        log_p, target = distilled(student, teacher, *temperatures)
        pairs = -torch.einsum("bgd,bvd->bgv", target, log_p)
        if not self.same_view_pairs:
            views = torch.arange(pairs.shape[2], device=pairs.device)
            pairs = pairs.masked_fill(views[: pairs.shape[1], None] == views, 0)
        return pairs.sum(dim=(1, 2))
