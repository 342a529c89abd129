"""The paper's ablations of heads: losses on the embedding itself, and one head for two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torch import Tensor, nn
from torch.nn import functional

from fungistore.backbones.encoder import TokenGrid
from fungistore.errors import UsageError
from fungistore.extraction.banks import stand_in
from fungistore.extraction.freeze import array_configs, head_tensors
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.fingerprint import fingerprint
from fungistore.objectives.audio_simclr import AudioSimCLR
from fungistore.objectives.deepcluster import DeepCluster
from fungistore.objectives.dino import DINO
from fungistore.objectives.ibot import IBOT
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ViewOutputs
from fungistore.objectives.patch_kl import PatchKL
from fungistore.objectives.patch_simclr import PatchSimCLR
from fungistore.objectives.simclr import SimCLR
from fungistore.objectives.text_simclr import TextSimCLR
from tiny_world import TINY

WIDTH, VIEWS, NEGATIVES = 6, 4, 5
OF_OLD = {"student_temperature", "teacher_temperature", "head_dim", "normalize", "global_crops"}
OF_OLD |= {"local_crops", "global_scale", "local_scale", "same_view_pairs", "normalization"}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def infonce(rows: np.ndarray, negatives: np.ndarray, temperature: float, scale: float) -> float:
    """Of one sample's latents, as equation 5 has it."""
    rows, negatives, losses = unit(rows), unit(negatives), []
    for i, anchor in enumerate(rows):
        others = np.delete(rows, i, axis=0) @ anchor
        everything = np.concatenate([others, negatives @ anchor])
        losses.append(logsumexp(everything / scale) - others.mean() / temperature)
    return float(np.mean(losses))


@pytest.mark.parametrize("normalize", [True, False])
def test_kl_without_a_head_is_the_divergence_of_the_embedding(normalize: bool) -> None:
    """Of its softmax from the uniform distribution, over as many numbers as it has."""
    rows = 3 * numbers(2, 1, WIDTH)
    objective = KL(head_dim=0, normalize=normalize, temperature=2.0)
    logits = rows.numpy()[:, 0]
    log_p = log_softmax((unit(logits) if normalize else logits) / 2.0, axis=1)
    expected = (-np.log(WIDTH) - log_p).mean(axis=1) / WIDTH
    np.testing.assert_allclose(objective.losses(ViewOutputs(rows), {}), expected, rtol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_dino_without_heads_compares_embeddings(normalize: bool) -> None:
    """Student and teacher outputs are the embeddings of their views."""
    rows = numbers(2, VIEWS, WIDTH)
    objective = DINO(head_dim=0, local_crops=2, normalize=normalize)
    outputs = unit(rows.numpy()) if normalize else rows.numpy()
    target = softmax(outputs[:, :2] / 0.07, axis=-1)
    log_p = log_softmax(outputs / 0.1, axis=-1)
    expected = -np.einsum("bgd,bvd->b", target, log_p)
    np.testing.assert_allclose(objective.losses(ViewOutputs(rows), {}), expected)


def test_dino_with_one_head_gives_both_the_students() -> None:
    """The teacher's head is the student's, and has no gradient through the teacher."""
    rows = numbers(2, VIEWS, WIDTH)
    objective = DINO(head_dim=3, local_crops=2, shared_head=True)
    assert objective.needs.heads == {"student": 3}
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, 3).double()
    found = objective.losses(ViewOutputs(rows), {"student": head})
    outputs = unit(rows.numpy()) @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    target = softmax(outputs[:, :2] / 0.07, axis=-1)
    expected = -np.einsum("bgd,bvd->b", target, log_softmax(outputs / 0.1, axis=-1))
    np.testing.assert_allclose(found.detach(), expected)
    (back,) = torch.autograd.grad(found.sum(), head.bias)
    wrong = 2 * softmax(outputs / 0.1, axis=-1).sum((0, 1)) - VIEWS * target.sum((0, 1))
    np.testing.assert_allclose(back, wrong / 0.1)


def test_there_is_no_head_to_share_without_one() -> None:
    """Refused, since it would be the same loss under another fingerprint."""
    with pytest.raises(UsageError, match=r"dino\.shared_head"):
        DINO(shared_head=True, head_dim=0)


@pytest.mark.parametrize(
    "objective",
    [
        SimCLR(head_dim=0),
        SimCLR(head_dim=0, normalize=True, negative_temperature=False),
        TextSimCLR(head_dim=0, views=VIEWS),
        AudioSimCLR(head_dim=0, views=VIEWS),
    ],
    ids=repr,
)
def test_simclr_without_a_head_contrasts_embeddings(objective: Any) -> None:
    """Its latents, and so its negatives, are the embeddings of views."""
    rows, negatives = numbers(2, VIEWS, WIDTH), numbers(NEGATIVES, WIDTH, seed=1)
    scale = objective.temperature if objective.negative_temperature else 1.0
    expected = [infonce(one, negatives.numpy(), 0.07, scale) for one in rows.numpy()]
    found = objective.losses(ViewOutputs(rows), {}, negatives)
    np.testing.assert_allclose(found, expected)
    latents = objective.latents(ViewOutputs(rows), {})
    some = rows[:, : getattr(objective, "negative_views", VIEWS)]
    assert torch.equal(latents, functional.normalize(some, dim=-1) if objective.normalize else some)


def test_objectives_of_tokens_without_a_head_are_those_of_tokens() -> None:
    """KL of each token, and InfoNCE of an image's tokens against their neighbours."""
    tokens, near = numbers(2, 2, 2, WIDTH), numbers(2, 4, 1, WIDTH, seed=1)
    outputs = ViewOutputs(
        numbers(2, 1, WIDTH, seed=2),
        (TokenGrid(tokens[:, None]),),
        (torch.zeros(2, 4),),
    )
    kl = PatchKL(head_dim=0, temperature=1.0)
    simclr = PatchSimCLR(head_dim=0, negative_neighbors=1, keep=1.0)
    assert kl.needs.token_heads == simclr.needs.token_heads == {}
    flat = tokens.flatten(1, 2).numpy()
    log_p = log_softmax(unit(flat), axis=-1)
    expected = ((-np.log(WIDTH) - log_p).mean(axis=-1) / WIDTH).mean(axis=1)
    np.testing.assert_allclose(kl.losses(outputs, {}), expected, rtol=1e-6)
    contrasts = [
        infonce(rows, others, 0.07, 1.0)
        for rows, others in zip(flat, near.flatten(1, 2).numpy(), strict=True)
    ]
    np.testing.assert_allclose(simclr.losses(outputs, {}, near), contrasts)


@pytest.fixture(scope="module")
def headless(tiny_weights: Path) -> Resolved:
    """The tiny model with three objectives that have no heads."""
    options = ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        features=("kl", "dino", "simclr", "deepcluster", "ibot", "patches/simclr"),
        objectives={
            "kl": KL(head_dim=0),
            "dino": DINO(head_dim=0, local_crops=1),
            "simclr": SimCLR(head_dim=0, stride_scale=1, negatives=2),
            "deepcluster": DeepCluster(head_dim=0, local_crops=0, bank_samples=3),
            "ibot": IBOT(head_dim=0),
            "patches/simclr": PatchSimCLR(head_dim=0, support_images=2),
        },
        device="cpu",
    )
    return replace(resolve(options, {}), unit_rows=8)


def test_negatives_without_a_head_are_as_wide_as_embeddings(headless: Resolved) -> None:
    """So is the noise in their place, before the rate is measured; tokens keep their own width."""
    for feature in headless.gradient_features:
        assert head_tensors(headless, feature) == {}
    width = headless.backbone.embedding_dim
    assert stand_in(headless, "simclr").shape == (2 * 4, width)
    wider = replace(headless.backbone, embedding_dim=width + 1)  # as with CLIP's projection
    assert stand_in(replace(headless, backbone=wider), "simclr").shape[1] == width + 1
    assert stand_in(replace(headless, backbone=wider), "deepcluster").shape == (3, 3, width + 1)
    assert stand_in(replace(headless, backbone=wider), "patches/simclr").shape[1] == width


@pytest.mark.parametrize(
    ("changed", "is_other"),
    [
        (DINO(augment="crops", shared_head=False), False),
        (DINO(augment="full"), True),
        (DINO(shared_head=True), True),
    ],
)
def test_switches_that_came_later_change_a_fingerprint_where_they_are_set(
    headless: Resolved, changed: DINO, is_other: bool
) -> None:
    """At their defaults features are those that stores have had all along."""

    def config(objective: DINO) -> dict[str, Any]:
        options = replace(headless.options, features=("dino",), objectives={"dino": objective})
        return array_configs(replace(headless, options=options))["dino"]

    before, after = config(DINO()), config(changed)
    assert before["dino"].keys() == OF_OLD | {"view_sizes"}
    assert (fingerprint(before) != fingerprint(after)) == is_other
