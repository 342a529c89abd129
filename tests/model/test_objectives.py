"""Objectives against numbers that the reference code gave, and against their own definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fungistore.errors import UsageError
from fungistore.modalities.requests import CropFamily, Crops, Windows
from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import BankObjective, BankSpec, Needs, ViewOutputs
from fungistore.objectives.registry import OBJECTIVES
from fungistore.objectives.simclr import SimCLR
from fungistore.objectives.text_simclr import TextSimCLR

EMBEDDING_DIM = 16
ALL = [KL(), DINO(), SimCLR()]
VARIANTS = [
    *ALL,
    KL(direction="uniform-last", temperature=1.0, normalize=False),
    DINO(same_view_pairs=False, normalize=False),
    SimCLR(negative_temperature=False, normalize=True),
    KL(head_dim=0),
    DINO(head_dim=0, normalize=False),
    DINO(shared_head=True),
    SimCLR(head_dim=0),
    TextSimCLR(),
    TextSimCLR(negative_temperature=False, normalize=True),
]


def sines(rows: int, columns: int, step: float) -> Tensor:
    """D(n, c, a)[i, j] = sin(a (i c + j) + 0.3), the inputs of the golden numbers."""
    index = torch.arange(rows * columns, dtype=torch.float64).reshape(rows, columns)
    return torch.sin(step * index + 0.3).float()


def heads_for(objective: KL | DINO | SimCLR | TextSimCLR) -> dict[str, nn.Linear]:
    torch.manual_seed(3)
    return {
        name: nn.Linear(EMBEDDING_DIM, width).requires_grad_(False)
        for name, width in objective.needs.heads.items()
    }


def embeddings_for(
    objective: KL | DINO | SimCLR | TextSimCLR, images: int, seed: int = 4
) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(images, 1 if isinstance(objective, KL) else 12, EMBEDDING_DIM)


@pytest.mark.parametrize(
    ("negative_temperature", "loss", "gradient_norm"),
    [(True, 1.513187, 1.456901), (False, -10.431505, 2.837311)],
)
def test_simclr_gives_the_reference_codes_numbers(
    negative_temperature: bool, loss: float, gradient_norm: float
) -> None:
    """InfoNCE and its gradient equal the vision code's and the text code's, to six digits."""
    positives = sines(4, 5, 1.3)[None].requires_grad_()
    objective = SimCLR(negative_temperature=negative_temperature)
    losses = objective.info_nce(positives, sines(6, 5, 0.7))
    losses.sum().backward()
    assert losses.tolist() == [pytest.approx(loss, abs=2e-6)]
    assert positives.grad is not None
    assert float(positives.grad.norm()) == pytest.approx(gradient_norm, abs=2e-6)


def test_simclr_variants_have_the_reference_cosine() -> None:
    """The gradients with and without a temperature in the denominator have a cosine of 0.985.

    The reference's 0.986 is 0.9858, of gradients computed in float16.
    """
    gradients = []
    for negative_temperature in (True, False):
        positives = sines(4, 5, 1.3)[None].requires_grad_()
        objective = SimCLR(negative_temperature=negative_temperature)
        objective.info_nce(positives, sines(6, 5, 0.7)).sum().backward()
        assert positives.grad is not None
        gradients.append(positives.grad.flatten())
    cosine = functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert float(cosine) == pytest.approx(0.9858, abs=1e-3)


def test_simclr_is_the_papers_equation_written_out() -> None:
    """Each anchor's loss is -mean(s/t) over its other positives + log-sum-exp over all others."""
    torch.manual_seed(5)
    positives, negatives = torch.randn(3, 4, 8).double(), torch.randn(7, 8).double()
    expected = []
    for image in positives:
        terms = []
        for i in range(4):
            others = [j for j in range(4) if j != i]
            near = torch.stack(
                [functional.cosine_similarity(image[i], image[j], dim=0) for j in others]
            )
            far = torch.stack(
                [functional.cosine_similarity(image[i], negative, dim=0) for negative in negatives]
            )
            push = torch.logsumexp(torch.cat([near, far]) / 0.07, dim=0)
            terms.append(push - near.mean() / 0.07)
        expected.append(torch.stack(terms).mean())
    assert torch.allclose(SimCLR().info_nce(positives, negatives), torch.stack(expected))


def test_simclr_works_without_negatives() -> None:
    """With negatives=None an anchor is only compared with the other windows, and stays finite."""
    objective = SimCLR()
    embeddings = embeddings_for(objective, 3).requires_grad_()
    heads = heads_for(objective)
    losses = objective.losses(ViewOutputs(embeddings), heads, None)
    losses.sum().backward()
    latents = functional.normalize(
        objective.latents(ViewOutputs(embeddings), heads).detach(), dim=-1
    )
    near = latents @ latents.transpose(1, 2) / 0.07
    off_diagonal = near[:, ~torch.eye(12, dtype=torch.bool)].reshape(3, 12, 11)
    expected = (off_diagonal.logsumexp(dim=2) - off_diagonal.mean(dim=2)).mean(dim=1)
    assert torch.allclose(losses, expected, atol=1e-5)
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.norm() > 0


@pytest.mark.parametrize(
    ("objective", "parameters"),
    [
        (KL, {"temperature": 0.0}),
        (KL, {"temperature": math.inf}),
        (KL, {"head_dim": -1}),
        (DINO, {"student_temperature": 0.0}),
        (DINO, {"teacher_temperature": math.inf}),
        (DINO, {"head_dim": -1}),
        (DINO, {"local_crops": -1}),
        (DINO, {"local_scale": (0.3, 1.01)}),
        (SimCLR, {"temperature": 0.0}),
        (SimCLR, {"temperature": math.inf}),
        (SimCLR, {"head_dim": -1}),
        (SimCLR, {"negatives": -1}),
        (DINO, {"teacher_temperature": -1.0}),
        (DINO, {"global_crops": 0}),
        (DINO, {"local_scale": (0.3, 0.2)}),
        (DINO, {"global_scale": (0.0, 1.0)}),
        (SimCLR, {"base_patches": 1}),  # a single window would have no positive
        (SimCLR, {"base_patches": 5}),
        (SimCLR, {"stride_scale": 0}),
    ],
)
def test_meaningless_parameters_are_refused(
    objective: type[KL] | type[DINO] | type[SimCLR], parameters: dict[str, Any]
) -> None:
    """A parameter without a sensible loss is named, with what it takes."""
    (name,) = parameters
    with pytest.raises(UsageError, match=f"{objective.name}.{name}"):
        objective(**parameters)


@given(
    exponent=st.floats(-3, 3),
    negative_exponent=st.floats(-3, 3),
    seed=st.integers(0, 1000),
    negative_temperature=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_simclr_does_not_depend_on_the_length_of_latents(
    exponent: float, negative_exponent: float, seed: int, negative_temperature: bool
) -> None:
    """Scaling the positives or the negatives leaves the loss as it is."""
    generator = torch.Generator().manual_seed(seed)
    positives = torch.randn(2, 5, 6, generator=generator).double()
    negatives = torch.randn(9, 6, generator=generator).double()
    objective = SimCLR(negative_temperature=negative_temperature)
    scaled = objective.info_nce(positives * 10**exponent, negatives * 10**negative_exponent)
    assert torch.allclose(scaled, objective.info_nce(positives, negatives), rtol=1e-9)


@pytest.mark.parametrize(
    ("objective", "loss", "tolerance"),
    [
        (KL(temperature=1.0), 0.02780265, 1e-8),
        (KL(temperature=1.0, direction="uniform-last"), 0.19152534 / 8, 1e-8),
        (KL(temperature=15.0), 1.3584e-4, 5e-9),
    ],
)
def test_kl_gives_the_reference_codes_losses(objective: KL, loss: float, tolerance: float) -> None:
    """The batch's mean equals PyTorch's kl_div with "mean", in both directions and temperatures."""
    losses = objective.divergence(sines(2, 8, 0.9))
    assert losses.dtype == torch.float32
    assert float(losses.double().mean()) == pytest.approx(loss, abs=tolerance)


def test_kl_gives_the_reference_codes_gradient() -> None:
    """The gradient at temperature 15 equals the reference's row, entry by entry."""
    logits = sines(2, 8, 0.9).requires_grad_()
    KL(temperature=15.0).divergence(logits).mean().backward()
    golden = [8.47e-6, 3.142e-5, 2.889e-5, 3.05e-6, -2.511e-5, -3.52e-5, -2.056e-5, 9.04e-6]
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx(golden, abs=6e-9)


@pytest.mark.parametrize("temperature", [1.0, 15.0])
def test_kl_keeps_its_gradient_where_float32_would_cancel(temperature: float) -> None:
    """With a fresh head's tiny logits the gradient still equals float64's p - u, to six digits."""
    torch.manual_seed(6)
    logits = (0.03 * torch.randn(4, 768)).requires_grad_()
    KL(temperature=temperature).divergence(logits).sum().backward()
    p = (logits.detach().double() / temperature).softmax(dim=1)
    expected = (p - 1 / 768) / temperature / 768
    assert logits.grad is not None
    error = (logits.grad.double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.max()) < 1e-6


def test_kl_directions_agree_in_their_gradients_direction_for_a_fresh_head() -> None:
    """KL(U || p) and KL(p || U) have gradients with a cosine above 0.99999 at small logits."""
    torch.manual_seed(7)
    logits = 0.03 * torch.randn(4, 768)
    gradients = []
    for objective in (KL(), KL(direction="uniform-last")):
        leaf = logits.clone().requires_grad_()
        objective.divergence(leaf).sum().backward()
        assert leaf.grad is not None
        gradients.append(functional.normalize(leaf.grad.double(), dim=1))
    assert float((gradients[0] * gradients[1]).sum(dim=1).min()) > 0.99999


def test_dino_gives_the_reference_codes_numbers() -> None:
    """The cross-entropy of all 2 x 4 pairs, and its gradient, equal the reference code's."""
    student = sines(8, 6, 0.37).reshape(2, 4, 6).requires_grad_()
    losses = DINO().cross_entropy(student, sines(4, 6, 0.53).reshape(2, 2, 6))
    losses.mean().backward()
    assert float(losses.detach().mean()) == pytest.approx(48.654366, abs=1e-5)
    assert student.grad is not None
    assert float(student.grad.norm()) == pytest.approx(23.714556, abs=1e-5)


def test_dino_leaves_out_pairs_of_the_same_view_when_asked_to() -> None:
    """Without same-view pairs the loss equals the reference's, and a sum over the pairs left."""
    student, teacher = sines(8, 6, 0.37).reshape(2, 4, 6), sines(4, 6, 0.53).reshape(2, 2, 6)
    losses = DINO(same_view_pairs=False).cross_entropy(student, teacher)
    assert float(losses.mean()) == pytest.approx(36.705364, abs=1e-5)
    target = (teacher / 0.07).softmax(dim=-1)
    log_p = (student / 0.1).log_softmax(dim=-1)
    expected = sum(
        -(target[:, g] * log_p[:, v]).sum(dim=-1) for g in range(2) for v in range(4) if g != v
    )
    assert isinstance(expected, Tensor)
    assert torch.allclose(losses, expected)


def test_dino_teacher_receives_no_gradient() -> None:
    """Nothing flows back through the teacher's latents or head, though it shares the embeddings."""
    student = sines(8, 6, 0.37).reshape(2, 4, 6).requires_grad_()
    teacher = sines(4, 6, 0.53).reshape(2, 2, 6).requires_grad_()
    DINO().cross_entropy(student, teacher).sum().backward()
    assert teacher.grad is None

    objective = DINO(global_crops=2, local_crops=10)
    heads = {name: head.requires_grad_() for name, head in heads_for(objective).items()}
    embeddings = embeddings_for(objective, 2).requires_grad_()
    objective.losses(ViewOutputs(embeddings), heads).sum().backward()
    assert heads["teacher"].weight.grad is None
    assert heads["student"].weight.grad is not None
    whole = embeddings.grad
    assert whole is not None

    alone = embeddings.detach().clone().requires_grad_()
    with torch.no_grad():
        unit = functional.normalize(alone[:, :2], dim=-1)
        fixed = heads["teacher"](unit)
    objective.cross_entropy(
        heads["student"](functional.normalize(alone, dim=-1)), fixed
    ).sum().backward()
    assert alone.grad is not None
    assert torch.allclose(alone.grad, whole, atol=1e-6)


@pytest.mark.parametrize("objective", VARIANTS, ids=repr)
def test_a_samples_loss_and_gradient_do_not_depend_on_its_batch(
    objective: KL | DINO | SimCLR,
) -> None:
    """The losses and gradients of a batch equal those of its samples, one by one."""
    heads = heads_for(objective)
    torch.manual_seed(8)
    width = objective.head_dim or EMBEDDING_DIM
    negatives = torch.randn(20, width) if isinstance(objective, SimCLR) else None
    batch = embeddings_for(objective, 5).requires_grad_()
    losses = objective.losses(ViewOutputs(batch), heads, negatives)
    losses.sum().backward()
    assert losses.shape == (5,)
    assert batch.grad is not None
    for row in range(5):
        alone = batch[row : row + 1].detach().clone().requires_grad_()
        loss = objective.losses(ViewOutputs(alone), heads, negatives)
        loss.sum().backward()
        assert alone.grad is not None
        assert torch.allclose(loss, losses[row : row + 1], rtol=1e-5)
        scale = float(alone.grad.abs().max())
        assert torch.allclose(alone.grad[0], batch.grad[row], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("objective", [KL(), DINO()], ids=lambda o: o.name)
def test_objectives_that_normalise_ignore_the_embeddings_length(objective: KL | DINO) -> None:
    """KL and DINO L2-normalise before the head, so a longer embedding has the same loss."""
    heads, embeddings = heads_for(objective), embeddings_for(objective, 3)
    losses = objective.losses(ViewOutputs(embeddings), heads)
    assert torch.allclose(
        objective.losses(ViewOutputs(7 * embeddings), heads), losses, rtol=1e-4, atol=1e-9
    )
    raw = type(objective)(normalize=False)
    assert not torch.allclose(
        raw.losses(ViewOutputs(7 * embeddings), heads), losses, rtol=1e-2, atol=0
    )


def test_simclr_does_not_normalise_before_its_head() -> None:
    """The latents are the head's plain output, as in the reference code."""
    objective = SimCLR()
    heads, embeddings = heads_for(objective), embeddings_for(objective, 2)
    assert torch.equal(
        objective.latents(ViewOutputs(embeddings), heads), heads["projection"](embeddings)
    )


def test_parameters_are_the_papers_by_default() -> None:
    """Temperatures, widths, crops, windows and negatives are those of the vision experiments."""
    assert (KL().temperature, KL().head_dim) == (15.0, 768)
    dino = DINO()
    assert (dino.student_temperature, dino.teacher_temperature, dino.head_dim) == (0.1, 0.07, 2048)
    assert (dino.global_crops, dino.global_scale) == (2, (0.25, 1.0))
    assert (dino.local_crops, dino.local_scale) == (10, (0.05, 0.25))
    simclr = SimCLR()
    assert (simclr.temperature, simclr.head_dim, simclr.negatives) == (0.07, 96, 256)
    assert (simclr.base_patches, simclr.stride_scale) == (4, 6)


def test_only_contrasts_need_a_bank() -> None:
    """The registry names every objective after itself; SimCLR and DeepCluster have one."""
    for name, objective in OBJECTIVES.items():
        called = name.partition("@")[0]
        contrasts = called in ("simclr", "patches/simclr", "deepcluster")
        assert objective.name == called
        assert isinstance(objective(), BankObjective) == contrasts
        assert (objective().needs.bank is None) != contrasts
    assert SimCLR(negatives=8).needs.bank == BankSpec("negatives", width=96, samples=8)
    assert SimCLR(negatives=0).needs.bank is None


@pytest.mark.parametrize("normalize", [True, False])
def test_dino_normalises_for_both_heads_or_for_neither(normalize: bool) -> None:
    """The loss is that of heads on unit embeddings, or on the embeddings as they are."""
    objective = DINO(normalize=normalize)
    heads, embeddings = heads_for(objective), 3 * embeddings_for(objective, 2)
    seen = functional.normalize(embeddings, dim=-1) if normalize else embeddings
    expected = objective.cross_entropy(
        heads["student"](seen), heads["teacher"](seen[:, : objective.global_crops])
    )
    found = objective.losses(ViewOutputs(embeddings), heads)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # some kernels go by strides


def test_the_least_parameters_are_taken() -> None:
    """What is allowed begins where what is refused ends."""
    KL(head_dim=1, temperature=1e-3)
    DINO(head_dim=1, global_crops=1, local_crops=0, local_scale=(1.0, 1.0))
    SimCLR(head_dim=1, base_patches=4, stride_scale=1, negatives=0)


def test_needs_are_what_the_parameters_say() -> None:
    """Heads, views and banks of each objective, written out."""
    assert KL(head_dim=5).needs == Needs(heads={"projection": 5})
    assert (KL().needs.tokens, KL().needs.views, KL().needs.bank) == (False, None, None)
    dino = DINO(
        head_dim=6,
        global_crops=3,
        local_crops=4,
        global_scale=(0.3, 0.9),
        local_scale=(0.1, 0.2),
        normalization="imagenet",
    )
    crops = (CropFamily(3, (0.3, 0.9)), CropFamily(4, (0.1, 0.2)))
    assert dino.needs == Needs(heads={"student": 6, "teacher": 6}, views=Crops(crops, "imagenet"))
    assert DINO(local_crops=0).needs.views == Crops((CropFamily(2, (0.25, 1.0)),))
    simclr = SimCLR(
        head_dim=7, base_patches=9, stride_scale=3, negatives=8, normalization="imagenet"
    )
    assert simclr.needs == Needs(
        heads={"projection": 7},
        views=Windows(9, 3, "imagenet"),
        bank=BankSpec("negatives", 7, 8),
    )


@pytest.mark.parametrize("direction", ["uniform-first", "uniform-last"])
def test_kl_is_the_divergence_written_out(direction: str) -> None:
    """Of the softmax at the temperature from the uniform distribution, either way round."""
    latents = 3 * sines(4, 5, 0.7)
    objective = KL(temperature=2.0, direction=direction)
    log_p = (latents.double() / 2).log_softmax(dim=1)
    u = torch.full_like(log_p, 1 / 5)
    if direction == "uniform-first":
        expected = (u * (u.log() - log_p)).sum(dim=1) / 5
    else:
        expected = (log_p.exp() * (log_p - u.log())).sum(dim=1) / 5
    torch.testing.assert_close(objective.divergence(latents), expected.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("same_view_pairs", [True, False])
def test_dino_is_the_sum_of_cross_entropies_written_out(same_view_pairs: bool) -> None:
    """Of every student view under every teacher view; the first views of both are the same."""
    student, teacher = sines(10, 6, 0.9).view(2, 5, 6), sines(4, 6, 0.4).view(2, 2, 6)
    objective = DINO(
        student_temperature=0.5, teacher_temperature=0.2, same_view_pairs=same_view_pairs
    )
    expected = torch.zeros(2)
    for image in range(2):
        for above in range(2):
            for below in range(5):
                if above == below and not same_view_pairs:
                    continue
                target = (teacher[image, above] / 0.2).softmax(dim=0)
                expected[image] -= target @ (student[image, below] / 0.5).log_softmax(dim=0)
    torch.testing.assert_close(objective.cross_entropy(student, teacher), expected)
