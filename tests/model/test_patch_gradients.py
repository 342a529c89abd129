"""Gradients of patch tokens: against autograd with a layer of its own for each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from test_gradients import small
from test_objectives import sines
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fungistore.backbones.families import load_backbone
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.choices import ProjectionKind
from fungistore.errors import UsageError
from fungistore.extraction.batches import stack_drawn
from fungistore.extraction.features import FeatureMaker, GradientFeature
from fungistore.extraction.support import Support
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path, token_path
from fungistore.gradients.projection import Projection, ProjectionSpec
from fungistore.objectives.objective import Neighbors, ViewOutputs
from fungistore.objectives.patch_kl import PatchKL
from fungistore.objectives.patch_simclr import PatchSimCLR, scrambled

PatchObjective = PatchKL | PatchSimCLR
KINDS: list[ProjectionKind] = ["binary", "gaussian", "sparse", "very-sparse", "tensorsketch"]
CPU = torch.device("cpu")


def heads_of(objective: PatchObjective, width: int) -> dict[str, nn.Linear]:
    torch.manual_seed(1)
    dims = objective.needs.token_heads
    return {name: nn.Linear(width, dim).requires_grad_(False) for name, dim in dims.items()}


def loss_of(objective: PatchObjective, encoder: TimmViT, embeddings: Tensor, tokens: Any) -> Tensor:
    """The loss of given tokens [b, 1, h, w, d], against the same random neighbours each time."""
    torch.manual_seed(2)
    count = encoder.token_shape[0] * encoder.token_shape[1]
    near = torch.randn(len(embeddings), count, objective.needs.neighbors.count, encoder.token_dim)
    draws = torch.rand(len(embeddings), count * objective.needs.token_draws)
    views = ViewOutputs(embeddings, tokens, (draws,))
    return objective.losses(views, heads_of(objective, encoder.token_dim), near)


def layer_of_each_token(encoder: TimmViT, pixels: Tensor, loss: Callable[..., Tensor]) -> Tensor:
    """Autograd of a model whose target layer has a weight and a bias for every token of its own."""
    target = encoder.target
    assert isinstance(target, nn.Linear)
    own: list[Tensor] = []

    def run_each(module: nn.Linear, entered: tuple[Tensor], output: Tensor) -> Tensor:
        (rows,) = entered
        bias = module.bias if module.bias is not None else torch.zeros(module.out_features)
        weight = torch.cat([module.weight, bias[:, None]], dim=1)
        layers = weight.expand(*rows.shape[:2], *weight.shape).clone().requires_grad_()
        own.append(layers)
        return torch.einsum("ntoi,nti->nto", layers, nn.functional.pad(rows, (0, 1), value=1.0))

    hook = target.register_forward_hook(run_each)
    encoded = encoder.run((pixels,))
    hook.remove()
    assert encoded.grid is not None
    grid = replace(encoded.grid, tokens=encoded.grid.tokens[:, None])
    losses = loss(encoded.embeddings[:, None], (grid,))
    (gradient,) = torch.autograd.grad(losses.sum(), own)
    columns = target.in_features + (target.bias is not None)
    return gradient[:, -(grid.tokens.shape[2] ** 2) :, :, :columns]


@pytest.mark.parametrize("objective", [PatchSimCLR(), PatchKL(temperature=0.5)])
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_vit", None),
        ("vit_small_patch14_reg4_dinov2", None),  # layer scale and register tokens
        ("vit_base_patch16_gap_224", None),  # average pooling
        ("test_vit", "blocks.4.mlp.fc2"),  # tokens meet again after it
        ("eva02_tiny_patch14_224", None),  # rotary positions
    ],
)
def test_each_tokens_gradient_is_autograds(
    name: str, layer: str | None, objective: PatchObjective
) -> None:
    """Weight and bias, to 1e-5, of class-token, register-token and average-pooled models."""
    encoder = small(name, layer)
    torch.manual_seed(0)
    pixels = torch.randn(3, 3, encoder.image_size, encoder.image_size)

    def loss(embeddings: Tensor, tokens: Any) -> Tensor:
        if isinstance(objective, PatchKL):
            views = ViewOutputs(embeddings, tokens)
            return objective.losses(views, heads_of(objective, encoder.token_dim))
        return loss_of(objective, encoder, embeddings, tokens)

    expected = layer_of_each_token(encoder, pixels, loss)
    path = token_path(encoder, gradient_path(encoder))
    tape = path.record([(pixels[:, None],)], tokens=True)
    factors = path.token_factors(tape, loss(tape.embeddings, tape.tokens))
    formed = factors.left[..., :, None] * factors.right[..., None, :]
    formed = formed * factors.norms[..., None, None]
    assert formed.shape == expected.shape
    error = (formed - expected).norm(dim=(2, 3)) / expected.norm(dim=(2, 3))
    assert error.max() < 1e-5
    torch.testing.assert_close(formed.flatten(2).norm(dim=2), factors.norms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_projections_of_tokens_are_those_of_their_formed_gradients(kind: Any) -> None:
    """One matrix for vectors and tokens; a tensor sketch by FFT is the product with it."""
    torch.manual_seed(0)
    out, width, dim = 67, 66, 32  # a block of 4096 columns ends within a row
    projection = Projection(ProjectionSpec(kind, dim, out * width, seed=3, width=width))
    left, right = torch.randn(2, 150, out), torch.randn(2, 150, width)
    formed = (left[..., :, None] * right[..., None, :]).flatten(2)
    expected = projection(formed.flatten(0, 1)).unflatten(0, (2, 150))
    found = projection.of_outer_products(left, right)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    matrix = np.concatenate([projection.spec.block(i) for i in range(projection.spec.blocks)], 1)
    by_hand = formed[0, :3].double().numpy() @ matrix.T * projection.spec.scale
    np.testing.assert_allclose(found[0, :3], by_hand, atol=1e-4)


@pytest.mark.parametrize("kind", ["binary", "tensorsketch"])
def test_inner_products_are_unbiased(kind: Any) -> None:
    """Over seeds, the mean product of two projections is that of the gradients."""
    torch.manual_seed(0)
    left, right = torch.randn(1, 2, 12), torch.randn(1, 2, 9) + 0.5
    left[0, 1] += left[0, 0]
    formed = (left[..., :, None] * right[..., None, :]).flatten(2)[0]
    products = []
    for seed in range(400):
        spec = ProjectionSpec(kind, 16, 12 * 9, seed=seed, width=9)
        one, other = Projection(spec).of_outer_products(left, right)[0]
        products.append(float(one @ other))
    error = np.std(products) / 20
    assert abs(np.mean(products) - float(formed[0] @ formed[1])) < 3 * error


@pytest.mark.parametrize(
    ("negative_temperature", "loss", "gradient_norm"),
    [(True, 1.513187, 1.456901), (False, -10.431505, 2.837311)],
)
def test_info_nce_gives_the_reference_codes_numbers(
    negative_temperature: bool, loss: float, gradient_norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the temperature in the denominator and without; some anchors at a time, or all."""
    objective = PatchSimCLR(negative_temperature=negative_temperature)
    for most in (1 << 20, 1):
        monkeypatch.setattr("fungistore.objectives.patch_simclr.MOST_LOGITS", {"cpu": most})
        raw = sines(4, 5, 1.3)[None].requires_grad_()
        negatives = nn.functional.normalize(sines(6, 5, 0.7), dim=-1)[None]
        dropped = torch.cat([negatives, torch.randn(1, 3, 5)], dim=1)
        kept = torch.tensor([[True] * 6 + [False] * 3])
        positives = nn.functional.normalize(raw, dim=-1)
        found = objective.info_nce(positives, dropped, kept)
        (gradient,) = torch.autograd.grad(found.sum(), raw)
        assert float(found.detach()) == pytest.approx(loss, abs=2e-6)
        assert float(gradient.norm()) == pytest.approx(gradient_norm, abs=2e-6)


def test_scrambled_neighbours_are_the_reference_codes() -> None:
    """Every k-th number of the concatenated neighbours: [0, 1, 2, 3] becomes [0, 5, 10, 15]."""
    numbers = torch.arange(20, dtype=torch.float32).reshape(1, 1, 5, 4)
    unscaled = numbers.norm(dim=-1, keepdim=True) * nn.functional.normalize(numbers, dim=-1)
    assert torch.equal(unscaled.round(), numbers)
    lengths = numbers.norm(dim=-1).flatten()
    found = scrambled(numbers)[0, 0, 0]
    expected = [0 / lengths[0], 5 / lengths[1], 10 / lengths[2], 15 / lengths[3]]
    torch.testing.assert_close(found, torch.tensor([float(one) for one in expected]))


@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_a_tokens_neighbours_are_the_nearest_of_the_bank(search: Any) -> None:
    """By cosine, never the token itself; an IVF search of few vectors looks at them all."""
    random = np.random.default_rng(0)
    bank = random.standard_normal((40, 8)).astype(np.float32)
    tokens = np.stack([bank[3], 2 * bank[7], *random.standard_normal((5, 8))]).astype(np.float32)
    support = Support(torch.from_numpy(bank), Neighbors(2, search), seed=0)
    found = support.nearest(torch.from_numpy(tokens)[None])[0].numpy()
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    cosines = tokens @ unit.T / np.linalg.norm(tokens, axis=1, keepdims=True)
    cosines[0, 3] = cosines[1, 7] = -2
    expected = bank[np.argsort(-cosines, axis=1)[:, :2]]
    np.testing.assert_array_equal(found, expected)


def maker_of(
    encoder: TimmViT, objectives: dict[str, PatchObjective], **options: Any
) -> FeatureMaker:
    path = gradient_path(encoder)
    rows, width = path.gradient_shapes[0]
    torch.manual_seed(5)
    bank = torch.randn(50, encoder.token_dim)
    gradients = {}
    for name, objective in objectives.items():
        near = objective.needs.neighbors
        support = None if near is None else Support(bank, near, seed=0)
        heads = heads_of(objective, encoder.token_dim)
        gradients[name] = GradientFeature(objective, None, heads, bank, support)
    return FeatureMaker(
        encoder,
        path,
        Projection(ProjectionSpec("binary", 16, rows * width, 0, width)),
        gradients,
        **{"pool": 1, "batch_size": 16, "seed": 0} | options,
        device=CPU,
        token_path=token_path(encoder, path),
        exact_patches=True,
    )


@pytest.fixture
def encoder(weights_file: Callable[[str], Path]) -> TimmViT:
    found = load_backbone("test_vit", weights=weights_file("test_vit"), image_size=64)
    assert isinstance(found, TimmViT)
    return found


def test_tokens_depend_on_no_company(encoder: TimmViT, photos: list[NDArray[np.uint8]]) -> None:
    """Bits are those of an image alone, in a batch, in another order; so are patch tensors'."""
    objectives: dict[str, PatchObjective] = {
        "patches/simclr": PatchSimCLR(),
        "patches/kl": PatchKL(),
    }
    maker = maker_of(encoder, objectives)
    wanted = frozenset(["patches", *objectives])
    drawn = [maker.drawer.draw(photo, f"{i}", wanted) for i, photo in enumerate(photos)]
    whole = maker.compute(stack_drawn(drawn), wanted)
    backwards = maker.compute(stack_drawn(drawn[::-1]), wanted)
    alone = maker.compute(stack_drawn(drawn[2:3]), wanted)
    assert whole.keys() == {
        "patches",
        "patch-gradients/simclr",
        "patch-gradients/kl",
        "patch-norms/simclr",
        "patch-norms/kl",
    }
    for name, rows in whole.items():
        np.testing.assert_array_equal(rows, backwards[name][::-1], name)
        np.testing.assert_array_equal(rows[2], alone[name][0], name)
    patches = maker.compute(stack_drawn(drawn), frozenset(["patches"]))["patches"]
    np.testing.assert_array_equal(patches, whole["patches"])
    other = maker.drawer.draw(photos[2], "another id", wanted)
    renamed = maker.compute(stack_drawn([other]), wanted)
    assert np.abs(renamed["patch-gradients/simclr"] - alone["patch-gradients/simclr"]).max() > 1e-3
    np.testing.assert_array_equal(renamed["patch-gradients/kl"], alone["patch-gradients/kl"])


def test_pooled_gradients_are_those_of_cells(
    encoder: TimmViT, photos: list[NDArray[np.uint8]]
) -> None:
    """The mean of a cell's gradients, brought to unit length."""
    objectives: dict[str, PatchObjective] = {"patches/kl": PatchKL()}
    only = frozenset(objectives)
    drawn = stack_drawn([maker_of(encoder, objectives).drawer.draw(photos[0], "0", only)])
    grid = maker_of(encoder, objectives).compute(drawn, only)
    cells = maker_of(encoder, objectives, pool=2).compute(drawn, only)
    gradients = grid["patch-gradients/kl"] * grid["patch-norms/kl"][..., None]
    means = gradients.reshape(1, 2, 2, 2, 2, -1).mean(axis=(2, 4))
    lengths = np.linalg.norm(means, axis=-1)
    np.testing.assert_allclose(cells["patch-norms/kl"], lengths, rtol=1e-4)
    np.testing.assert_allclose(cells["patch-gradients/kl"], means / lengths[..., None], atol=1e-4)


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that anything makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.untyped_storage().size() // 4)
        return made


def test_memory_of_an_image_is_that_of_its_tokens() -> None:
    """Of 1,024 tokens no tensor is larger than their factors, or a fixed part of the work."""
    torch.manual_seed(0)
    tokens, out, width, dim = 1024, 96, 97, 32
    left, right = torch.randn(1, tokens, out), torch.randn(1, tokens, width)
    projection = Projection(ProjectionSpec("binary", dim, out * width, 0, width))
    projection.of_outer_products(left, right)  # the matrix is made once
    positives = nn.functional.normalize(torch.randn(1, tokens, out), dim=-1).requires_grad_()
    near = nn.functional.normalize(torch.randn(1, 2 * tokens, out), dim=-1)
    kept = torch.ones(1, 2 * tokens, dtype=torch.bool)
    with _Largest() as largest:
        projection.of_outer_products(left, right)
        loss = PatchSimCLR(head_dim=out).info_nce(positives, near, kept).sum()
        torch.autograd.grad(loss, positives)
    fixed = max(128 * (4096 + 2 * width), 1 << 21)  # a stretch of some outer products, or of logits
    assert largest.numbers <= max(4 * tokens * (out + width), fixed)
    assert largest.numbers < tokens * out * width / 4  # forming all of them would take as much


def test_a_layer_without_a_row_for_each_token_is_refused(
    weights_file: Callable[[str], Path], photos: list[NDArray[np.uint8]]
) -> None:
    """Windows are in another order than the map, and a convolution has no rows: errors."""
    for name, size in (("swin_tiny_patch4_window7_224", 224), ("resnet18", 64)):
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, num_classes=0)
        path = weights_file("test_vit").with_name(f"{name}.safetensors")
        save_file(model.state_dict(), path)
        layer = "layers.2.blocks.1.attn.proj" if "swin" in name else "layer4.1.conv2"
        other = load_backbone(name, weights=path, image_size=size, target_layer=layer)
        tape_path = LayerPath(other)
        tape = tape_path.record([(torch.randn(2, 1, 3, size, size),)], tokens=True)
        losses = tape.tokens[0].tokens.square().flatten(1).sum(1)
        with pytest.raises(UsageError, match="one row for each token"):
            tape_path.token_factors(tape, losses)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"keep": 0.0}, "patches/simclr.keep"),
        ({"temperature": 0.0}, "patches/simclr.temperature"),
        ({"negative_neighbors": -1}, "patches/simclr.negative_neighbors"),
        ({"pairing": "scrambled", "negative_neighbors": 6}, "5 at most"),
        ({"support_patches": 0}, "patches/simclr.support_patches"),
    ],
)
def test_unusable_parameters_are_named(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        PatchSimCLR(**given)
    assert expected in str(caught.value)
