"""DeepCluster: crops of a sample must be in the cluster that it was assigned to (FUNGI, figure 10).

The paper gives no formula. This is what its code does: DeepCluster-v2 (Caron et al. 2020,
"Unsupervised Learning of Visual Features by Contrasting Cluster Assignments") with a backbone that
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from fungistore.errors import FungiError, UsageError
from fungistore.modalities.requests import CropFamily, Crops, Normalization
from fungistore.objectives.objective import (
    BankPlan,
    BankSpec,
    Heads,
    Needs,
    ViewOutputs,
    require_head_dim,
)
from fungistore.quantities import counted
from fungistore.settings import require

PROTOTYPES = 3000  # of each set, in the paper's code: one for 42 images of ImageNet-100


@dataclass(frozen=True)
class DeepCluster:
    """Eight crops against three sets of prototypes: the centroids of the train split's latents.

    A latent is the head's output at unit length; the head is linear, without bias and with rows of
    unit length (weight-normed). Before the first unit each sample puts two large crops into the
    bank; set j is made of crop j mod 2 by k-means, with dot products for distances and plain means,
    which are not of unit length. A sample's cluster in set j is its nearest prototype by its crop
    j mod 2, through which no gradient flows.

    Attributes:
        temperature: divides the scores; 0.1 in the reference code.
        head_dim: width of the head; 128 there; 0: none, latents are embeddings at unit length.
        prototypes: of each set; None: 3000, as there, or as many as the bank has samples.
        prototype_sets: 3 there; each has a start of its own.
        iterations: of k-means; 10 there.
        bank_samples: the most samples of the train split that the bank is made of. 131,072 are all
            of ImageNet-100 (126,689), 43 a prototype, and 134 MB of latents.
        global_crops: large crops; set j is made of, and assigned by, the one of j mod this number.
        local_crops: small crops.
        global_scale: least and greatest area of a large crop, as a fraction of the image's.
        local_scale: the same for small crops.
        assigned_by: "other-crops": large crops that the gradient is not taken of, those of the
            bank for its samples, as in the reference code; "same-crops": the large crops that the
            gradient is taken of, two forwards fewer.
        normalization: pixel statistics: "model" (the backbone's) or "imagenet" (the reference code,
            whose deviation of red is 0.228 by mistake: here it is 0.229).
    """

    temperature: float = 0.1
    head_dim: int = 128
    prototypes: int | None = None
    prototype_sets: int = 3
    iterations: int = 10
    bank_samples: int = 131_072
    global_crops: int = 2
    local_crops: int = 6
    global_scale: tuple[float, float] = (0.14, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)
    assigned_by: Literal["other-crops", "same-crops"] = "other-crops"
    normalization: Normalization = "model"

    name: ClassVar[str] = "deepcluster"

    def __post_init__(self) -> None:
        """Refuse unusable parameters with UsageError."""
        temperature = self.temperature
        require(0 < temperature < inf, "deepcluster.temperature", "a number above 0", temperature)
        require_head_dim(self.head_dim, "deepcluster.head_dim")
        for name in ("prototype_sets", "iterations", "bank_samples", "global_crops"):
            value = getattr(self, name)
            require(value > 0, f"deepcluster.{name}", "1 or more", value)
        require(self.local_crops >= 0, "deepcluster.local_crops", "0 or more", self.local_crops)
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            expected = "[LEAST, GREATEST], above 0 and up to 1"
            require(0 < low <= high <= 1, f"deepcluster.{name}", expected, [low, high])
        has_so_many = self.prototypes is None or 1 <= self.prototypes <= self.bank_samples
        expected = f"1 to deepcluster.bank_samples, {self.bank_samples}"
        require(has_so_many, "deepcluster.prototypes", expected, self.prototypes)

    @property
    def needs(self) -> Needs:
        """Large crops, small crops, one head, and prototypes of the train split."""
        families = [CropFamily(self.global_crops, self.global_scale)]
        if self.assigned_by == "other-crops":
            families *= 2
        if self.local_crops:
            families.append(CropFamily(self.local_crops, self.local_scale))
        bank = BankSpec(
            "prototypes",
            self.head_dim,
            samples=None,
            per_sample=self.global_crops,
            most=self.bank_samples,
            views=self.global_crops,
        )
        return Needs(
            heads={"projection": self.head_dim},
            views=Crops(tuple(families), self.normalization),
            bank=bank,
        )

    def losses(
        self, views: ViewOutputs, heads: Heads, bank: Float[Tensor, "s k d"] | None
    ) -> Float[Tensor, " b"]:
        """Return the mean cross-entropy of crops and sets with the assigned clusters."""
        assert bank is not None
        latents = self._unit(views.embeddings, heads)
        assigned = self.assign(latents[:, : self.global_crops], bank)
        if self.assigned_by == "other-crops":
            latents = latents[:, self.global_crops :]
        return self.cross_entropy(latents, assigned, bank)

    def assign(
        self, crops: Float[Tensor, "b g d"], prototypes: Float[Tensor, "s k d"]
    ) -> Int[Tensor, "b s"]:
        """Return each sample's cluster in every set: the prototype of the greatest dot product.

        It has no gradient.
        """
        crop_of = torch.arange(len(prototypes), device=crops.device) % self.global_crops
        scores = torch.einsum("bsd,skd->bsk", crops[:, crop_of], prototypes)
        return scores.argmax(dim=2)

    def cross_entropy(
        self,
        latents: Float[Tensor, "b v d"],
        assigned: Int[Tensor, "b s"],
        prototypes: Float[Tensor, "s k d"],
    ) -> Float[Tensor, " b"]:
        """Return the loss of latents of unit length."""
        scores = torch.einsum("bvd,skd->bvsk", latents, prototypes) / self.temperature
        wanted = assigned[:, None, :, None].expand(*scores.shape[:3], 1)
        return -scores.log_softmax(dim=3).gather(3, wanted).mean(dim=(1, 2, 3))

    def latents(self, views: ViewOutputs, heads: Heads) -> Float[Tensor, "b g d"]:
        """Return the latents of the crops that samples are assigned by."""
        return self._unit(views.embeddings[:, : self.global_crops], heads)

    def plan_bank(self, samples: int, width: int) -> BankPlan:
        """Return the shape of the prototypes, and whether they are fewer than in the reference.

        Raises:
            UsageError: more prototypes were asked for than there are samples.
        """
        count = self.prototypes or min(PROTOTYPES, samples)
        if count > samples:
            raise UsageError(
                "more prototypes than samples to make them of",
                where=f"--set {self.name}.prototypes={count}",
                expected=f"at most {samples}: the readable samples of the train split",
                hint=f"--set {self.name}.prototypes={samples} or fewer; left out, as many as fit",
            )
        said = None
        if self.prototypes is None and count < PROTOTYPES:
            said = f"{counted(count, 'prototype')}, one a sample of the bank, not {PROTOTYPES}"
        return BankPlan((self.prototype_sets, count, width), said)

    def reduce(self, latents: Float[Tensor, "n d"]) -> Float[Tensor, "s k d"]:
        """Return the centroids of each set; see `reduce_asking`."""
        return self.reduce_asking(latents, lambda: None)

    def reduce_asking(
        self, latents: Float[Tensor, "n d"], ask: Callable[[], None]
    ) -> Float[Tensor, "s k d"]:
        """Return the centroids of each set; samples whose latents are not finite are left out.

        Samples come in a random order that the seed decides, so a run of them is a random subset.
        The sets start from runs that follow each other. `ask` is called before each iteration: of
        131,072 samples and 3000 prototypes it takes 4 seconds, 9 with latents three times as wide.

        Raises:
            UsageError: there are fewer samples than prototypes.
            FungiError: no sample's latents are finite.
        """
        crops = latents.unflatten(0, (-1, self.global_crops)).numpy()
        crops = crops[np.isfinite(crops).all(axis=(1, 2))]
        if not len(crops):
            raise FungiError(
                "the model's numbers are not finite for any sample of the bank",
                where=f"--features {self.name}",
                hint="--dtype float32",
            )
        sets, count, _ = self.plan_bank(*crops.shape[::2]).shape
        made = []
        for index in range(sets):
            points = np.ascontiguousarray(crops[:, index % self.global_crops])
            start = points[(index * count + np.arange(count)) % len(points)]
            for _ in range(self.iterations):
                ask()
                start = centroids(points, start)
            made.append(start)
        return torch.from_numpy(np.stack(made))

    def _unit(self, embeddings: Float[Tensor, "b v e"], heads: Heads) -> Float[Tensor, "b v d"]:
        """Return the head's outputs at unit length: its bias is not used.

        Without a head they are the embeddings.
        """
        head = heads.get("projection")
        if head is not None:
            embeddings = embeddings @ nn.functional.normalize(head.weight, dim=1).T
        return nn.functional.normalize(embeddings, dim=-1)


def centroids(points: NDArray[np.float32], start: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the centroids of faiss's k-means with dot products for distances and plain means.

    It is one iteration: all points are assigned, then averaged. Several of them, each from where
    the one before has ended, are what faiss makes of as many. One thread makes them, so that they
    depend on no number of threads. A cluster that runs empty gets half of a large one, as faiss
    does it; where each point is a cluster, they are the points.

    Args:
        points: [n, d].
        start: [k, d], at most n of them.
    """
    import faiss  # takes a while, and only the making of a bank needs it

    count, dim = start.shape
    clustering = faiss.Clustering(dim, count)
    clustering.niter = 1
    clustering.min_points_per_centroid = 1  # faiss would warn on stderr
    clustering.max_points_per_centroid = len(points)  # none of them is left out
    faiss.copy_array_to_vector(start.ravel(), clustering.centroids)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        clustering.train(points, faiss.IndexFlatIP(dim))
    finally:
        faiss.omp_set_num_threads(threads)
    made: NDArray[np.float32] = faiss.vector_to_array(clustering.centroids).reshape(count, dim)
    return made
