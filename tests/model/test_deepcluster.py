"""DeepCluster against an independent reading of it in NumPy, and what its bank is made of."""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.modalities.requests import CropFamily, Crops
from fungistore.objectives.deepcluster import DeepCluster, centroids
from fungistore.objectives.objective import (
    BankPlan,
    BankSpec,
    Needs,
    PlannedBank,
    StoppableBank,
    ViewOutputs,
)

WIDTH, LATENT = 6, 5
Array = NDArray[np.float64]


def head() -> nn.Linear:
    """A head whose bias and whose rows' lengths would change everything, if they counted."""
    torch.manual_seed(0)
    made = nn.Linear(WIDTH, LATENT).requires_grad_(False)
    made.weight.data *= torch.tensor([0.3, 1.0, 2.0, 5.0, 9.0])[:, None]
    made.bias.data += 3
    return made


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def latents_of(embeddings: Tensor, *, has_head: bool = True) -> Array:
    """Weight-normed head, no bias, unit length."""
    rows = embeddings.detach().double().numpy()
    return unit(rows @ unit(head().weight.double().numpy()).T if has_head else rows)


def loss_of(
    crops: Array, assigners: Array, prototypes: Array, temperature: float
) -> tuple[float, list[int]]:
    """The mean over crops and sets of -log softmax(scores / temperature) at the assigned cluster.

    Args:
        crops: of one sample, [v, d].
        assigners: crop j mod their number decides the cluster in set j, [g, d].
        prototypes: [s, k, d].
        temperature: divides scores.
    """
    terms, clusters = [], []
    for j, centres in enumerate(prototypes):
        clusters.append(int(np.argmax(centres @ assigners[j % len(assigners)])))
        for crop in crops:
            scores = centres @ crop / temperature
            terms.append(math.log(sum(math.exp(s) for s in scores)) - scores[clusters[-1]])
    return sum(terms) / len(terms), clusters


@pytest.mark.parametrize("assigned_by", ["other-crops", "same-crops"])
@pytest.mark.parametrize(("global_crops", "width"), [(2, LATENT), (3, LATENT), (2, 0)])
def test_the_loss_is_the_one_written_out(assigned_by: Any, global_crops: int, width: int) -> None:
    """Crop j mod 2 assigns in set j; the gradient's crops are others, or those and the small.

    Without a head it is taken on the embeddings at unit length.
    """
    objective = DeepCluster(
        temperature=0.3,
        head_dim=width,
        global_crops=global_crops,
        local_crops=2,
        assigned_by=assigned_by,
    )
    heads = {"projection": head()} if width else {}
    assert objective.needs.heads.keys() == heads.keys()
    first = global_crops if assigned_by == "other-crops" else 0
    torch.manual_seed(5)
    embeddings = torch.randn(4, first + global_crops + 2, WIDTH)
    prototypes = torch.randn(3, 7, width or WIDTH)
    losses = objective.losses(ViewOutputs(embeddings), heads, prototypes)
    centres, clusters = prototypes.double().numpy(), []
    latents = latents_of(embeddings, has_head=width > 0)
    for loss, sample in zip(losses, latents, strict=True):
        expected, assigned = loss_of(sample[first:], sample[:global_crops], centres, 0.3)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        clusters.append(assigned)
    large = torch.from_numpy(latents[:, :global_crops]).float()
    assert objective.assign(large, prototypes).tolist() == clusters


@pytest.mark.parametrize("assigned_by", ["other-crops", "same-crops"])
def test_each_samples_gradient_is_its_own_and_passes_by_the_assignment(assigned_by: Any) -> None:
    """It is the difference quotient of the loss with its clusters held fast, in any company."""
    objective = DeepCluster(local_crops=1, assigned_by=assigned_by)
    first = 2 if assigned_by == "other-crops" else 0
    torch.manual_seed(6)
    heads, prototypes = {"projection": head().double()}, torch.randn(3, 4, LATENT).double()
    batch = torch.randn(3, first + 3, WIDTH, dtype=torch.float64, requires_grad=True)
    objective.losses(ViewOutputs(batch), heads, prototypes).sum().backward()
    found = batch.grad
    assert found is not None
    assert not found[:, :first].any()
    centres, step = prototypes.numpy(), 1e-6

    def loss(sample: Tensor, fixed: Array) -> float:
        return loss_of(latents_of(sample)[first:], fixed, centres, 0.1)[0]

    for row, sample in enumerate(batch.detach()):
        fixed = latents_of(sample)[:2]
        for view, place in ((first, 0), (first + 1, 3), (first + 2, 5)):
            shift = torch.zeros_like(sample)
            shift[view, place] = step
            quotient = (loss(sample + shift, fixed) - loss(sample - shift, fixed)) / (2 * step)
            assert float(found[row, view, place]) == pytest.approx(quotient, rel=1e-5, abs=1e-8)


def lloyd(points: Array, start: Array, iterations: int) -> Array:
    """Dot products for distances, plain means; no cluster may run empty."""
    for _ in range(iterations):
        nearest = (points @ start.T).argmax(axis=1)
        start = np.stack([points[nearest == k].mean(axis=0) for k in range(len(start))])
    return start


def test_prototypes_are_the_means_of_an_independent_k_means() -> None:
    """Set j is of crop j mod 2; it starts from the samples behind those of the set before it."""
    objective = DeepCluster(prototypes=3, iterations=2, head_dim=LATENT)
    random = np.random.default_rng(3)
    crops = unit(random.standard_normal((40, 2, LATENT)) + 2 * random.standard_normal((1, 2, 5)))
    found = objective.reduce(torch.from_numpy(crops).float().flatten(0, 1)).numpy()
    for j in range(3):
        points = crops[:, j % 2]
        expected = lloyd(points, points[3 * j : 3 * j + 3], 2)
        np.testing.assert_allclose(found[j], expected, atol=1e-5)
    assert np.linalg.norm(found, axis=2).max() < 0.999  # means of unit vectors, as they are


def test_sets_start_from_the_first_samples_again_where_there_are_no_more() -> None:
    """Of eight samples and five prototypes set 1 begins with the last three, then the first two."""
    objective = DeepCluster(
        prototypes=5, iterations=1, head_dim=LATENT, prototype_sets=2, global_crops=1
    )
    points = unit(np.random.default_rng(1).standard_normal((8, LATENT)))
    found = objective.reduce(torch.from_numpy(points).float()).numpy()
    for j, start in enumerate(([0, 1, 2, 3, 4], [5, 6, 7, 0, 1])):
        np.testing.assert_allclose(found[j], lloyd(points, points[start], 1), atol=1e-6)


def test_iterations_one_by_one_are_those_of_faiss() -> None:
    """Bit for bit, with clusters that run empty; it is asked before each whether it may go on."""
    points = unit(np.random.default_rng(0).standard_normal((60, LATENT))).astype(np.float32)
    points[:20] = points[0]
    clustering = faiss.Clustering(LATENT, 30)
    clustering.niter, clustering.min_points_per_centroid = 4, 1
    faiss.copy_array_to_vector(points[:30].ravel(), clustering.centroids)
    clustering.train(points, faiss.IndexFlatIP(LATENT))
    expected = faiss.vector_to_array(clustering.centroids).reshape(30, LATENT)
    objective = DeepCluster(
        prototypes=30, iterations=4, head_dim=LATENT, prototype_sets=2, global_crops=1
    )
    asked: list[None] = []
    latents = torch.from_numpy(points)
    found = objective.reduce_asking(latents, lambda: asked.append(None))
    assert np.array_equal(found[0], expected)
    assert len(asked) == 2 * 4

    def refuse() -> None:
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        objective.reduce_asking(latents, refuse)


def test_prototypes_depend_on_no_number_of_threads() -> None:
    """Whatever faiss may take, the same bits; and it may take as many afterwards."""
    points = np.random.default_rng(0).standard_normal((700, 16)).astype(np.float32)
    before, made = faiss.omp_get_max_threads(), []
    try:
        for threads in (1, 3):
            faiss.omp_set_num_threads(threads)
            made.append(centroids(points, points[:50]))
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert np.array_equal(*made)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_few_samples_are_a_prototype_each(samples: int) -> None:
    """Left to itself it takes as many prototypes as there are samples, and says so before."""
    objective = DeepCluster(head_dim=LATENT)
    crops = torch.randn(samples, 2, LATENT)
    plan = objective.plan_bank(samples, LATENT)
    assert plan.shape == (3, samples, LATENT)
    assert f"{samples} prototype" in str(plan.notice)
    found = objective.reduce(crops.flatten(0, 1))
    for j, made in enumerate(found):
        assert {tuple(row) for row in made.tolist()} == {tuple(r) for r in crops[:, j % 2].tolist()}


def test_prototypes_that_were_asked_for_are_never_fewer() -> None:
    """More of them than samples are refused, with what to pass; the paper's number is no wish."""
    assert isinstance(DeepCluster(), PlannedBank)
    assert isinstance(DeepCluster(), StoppableBank)
    assert DeepCluster().plan_bank(5000, 128) == BankPlan((3, 3000, 128))
    assert DeepCluster(prototypes=800).plan_bank(800, 128) == BankPlan((3, 800, 128))
    with pytest.raises(UsageError, match=r"deepcluster\.prototypes=800") as caught:
        DeepCluster(prototypes=801).plan_bank(800, 128)
    assert "at most 800" in str(caught.value)
    with pytest.raises(UsageError, match="more prototypes than samples"):
        DeepCluster(prototypes=3, head_dim=4).reduce(torch.randn(4, 4))


def test_samples_of_no_number_make_no_prototype() -> None:
    """They are left out, with both of their crops; a bank of nothing else is refused."""
    objective = DeepCluster(prototypes=2, head_dim=LATENT)
    crops = torch.randn(6, 2, LATENT)
    broken = crops.clone()
    broken[1, 1, 0], broken[4, 0] = torch.nan, torch.inf
    kept = crops[[0, 2, 3, 5]]
    assert torch.equal(objective.reduce(broken.flatten(0, 1)), objective.reduce(kept.flatten(0, 1)))
    with pytest.raises(FungiError, match="not finite"):
        objective.reduce(torch.full((4, LATENT), torch.nan))


def test_defaults_are_the_reference_codes() -> None:
    """Crops, widths, sets, iterations and temperature, and what is asked for with them."""
    objective = DeepCluster()
    assert (objective.temperature, objective.iterations, objective.prototype_sets) == (0.1, 10, 3)
    large, small = CropFamily(2, (0.14, 1.0)), CropFamily(6, (0.05, 0.14))
    bank = BankSpec("prototypes", 128, None, per_sample=2, most=131_072, views=2)
    heads = {"projection": 128}
    assert objective.needs == Needs(heads=heads, views=Crops((large, large, small)), bank=bank)
    same = DeepCluster(assigned_by="same-crops", normalization="imagenet")
    assert same.needs.views == Crops((large, small), "imagenet")
    assert DeepCluster(local_crops=0).needs.views == Crops((large, large))
    other = DeepCluster(head_dim=4, bank_samples=9, global_crops=1, global_scale=(0.2, 0.3))
    assert other.needs.bank == BankSpec("prototypes", 4, None, per_sample=1, most=9, views=1)


def test_the_bank_gets_the_large_crops_that_samples_are_assigned_by() -> None:
    """At unit length, whether all views are there or those alone."""
    objective, heads = DeepCluster(), {"projection": head()}
    embeddings = torch.randn(2, 10, WIDTH)
    found = objective.latents(ViewOutputs(embeddings), heads)
    np.testing.assert_allclose(found, latents_of(embeddings)[:, :2], atol=1e-6)
    assert torch.equal(objective.latents(ViewOutputs(embeddings[:, :2]), heads), found)


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"head_dim": -1},
        {"prototypes": 0},
        {"prototypes": 131_073},
        {"prototype_sets": 0},
        {"iterations": 0},
        {"bank_samples": 0},
        {"global_crops": 0},
        {"local_crops": -1},
        {"global_scale": (0.0, 1.0)},
        {"local_scale": (0.3, 0.2)},
    ],
    ids=str,
)
def test_meaningless_parameters_of_deepcluster_are_refused(parameters: dict[str, Any]) -> None:
    """A parameter without a sensible loss is named, with what it takes."""
    (name,) = parameters
    with pytest.raises(UsageError, match=rf"deepcluster\.{name}"):
        DeepCluster(**parameters)
