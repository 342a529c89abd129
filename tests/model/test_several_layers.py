"""Several target layers in one forward and one backward: each gradient is autograd's."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fungistore.backbones.families import load_backbone
from fungistore.errors import UsageError
from fungistore.gradients.class_token import ClassTokenPath
from fungistore.gradients.cutting import Cutter
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path, token_path
from fungistore.gradients.projection import ProjectionSpec, projections_of
from fungistore.objectives.dino import DINO
from fungistore.objectives.objective import ViewOutputs
from tiny_world import TINY

PROJ, FC1, FC2, LOW = (
    "blocks.5.attn.proj",
    "blocks.5.mlp.fc1",
    "blocks.5.mlp.fc2",
    "blocks.3.mlp.fc2",
)


@pytest.fixture(scope="module")
def loaded(tiny_weights: Path) -> Any:
    return load_backbone(TINY, weights=tiny_weights, image_size=32)


def tiny(loaded: Any, target_layer: str = PROJ) -> Any:
    """The model cut at a layer, with a module of its own."""
    return replace(loaded, module=copy.deepcopy(loaded.module), target_layer=target_layer)


def pixels(views: int) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(2, views, 3, 32, 32) + 2 * torch.randn(2, views, 3, 1, 1)


def losses(embeddings: Tensor) -> Tensor:
    torch.manual_seed(1)
    heads = {name: nn.Linear(64, dim) for name, dim in DINO().needs.heads.items()}
    return DINO(global_crops=2, local_crops=1).losses(ViewOutputs(embeddings), heads, None)


def oracle(encoder: Any, views: Tensor, name: str) -> Tensor:
    """One image at a time: autograd into the layer's own weight and bias."""
    layer, rows = encoder.module.get_submodule(name), []
    parameters = [one.requires_grad_() for one in (layer.weight, layer.bias) if one is not None]
    for image in views:
        found = torch.autograd.grad(losses(encoder.module(image)[None]).sum(), parameters)
        rows.append(torch.cat([one.reshape(len(one), -1) for one in found], dim=1))
    for parameter in parameters:
        parameter.requires_grad_(False)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ((PROJ, FC2), ClassTokenPath),
        ((FC1, PROJ, FC2), ClassTokenPath),  # the first one need not run first
        ((PROJ, LOW), LayerPath),
        ((LOW, "blocks.3.attn.qkv", "patch_embed.proj"), LayerPath),  # a convolution below linears
    ],
)
def test_the_gradient_of_each_layer_is_autograds(
    loaded: Any, layers: tuple[str, ...], kind: type
) -> None:
    """On the path that serves all of them, of chunks of views, in the order they were named."""
    order = [name for name, _ in tiny(loaded).module.named_modules()]
    encoder = tiny(loaded, min(layers, key=order.index))
    views = pixels(3)
    expected = [oracle(encoder, views, name) for name in layers]
    path = gradient_path(encoder, layers=layers)
    assert isinstance(path, kind)
    tape = path.record([(chunk,) for chunk in views.split(2, dim=1)])
    found = list(tape.gradients_of(losses(tape.embeddings), range(len(layers))))
    assert path.gradient_shapes == tuple(tuple(one.shape[1:]) for one in found)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
        assert (ours[..., -1] - theirs[..., -1]).norm() <= 1e-5 * theirs[..., -1].norm()


def test_a_layer_alone_has_the_bits_that_it_has_in_company(loaded: Any) -> None:
    """Where the same path is taken, fast or general, and whichever layers are asked for."""
    for cut, layers in ((PROJ, (PROJ, FC1, FC2)), (LOW, (LOW, PROJ, FC2))):
        encoder, views = tiny(loaded, cut), pixels(3)
        alone = gradient_path(encoder).record([(views,)])
        company = gradient_path(encoder, layers=layers).record([(views,)])
        value = losses(company.embeddings)
        found = list(company.gradients_of(value, [0, 1, 2]))
        assert torch.equal(found[0], alone.gradients(losses(alone.embeddings)))
        assert torch.equal(found[2], next(company.gradients_of(value, [2])))


def test_what_runs_outside_a_recording_is_not_cut(loaded: Any) -> None:
    """A path's hooks do nothing for other forwards, nor for those of layers beside it."""
    encoder, views = tiny(loaded), pixels(1)[:, 0]
    before = encoder.module(views)
    layers = {name: encoder.module.get_submodule(name) for name in (PROJ, FC2)}
    with Cutter({PROJ: layers[PROJ]}).cut() as calls, Cutter({FC2: layers[FC2]}).cut() as inner:
        encoder.module(views)
    assert not calls[PROJ]
    assert len(inner[FC2]) == 1
    assert not encoder.module(views).requires_grad
    assert torch.equal(encoder.module(views), before)


def test_gradients_of_tokens_are_those_of_each_layer_alone(loaded: Any) -> None:
    """Their factors, by the layer's place among the path's."""
    encoder, views = tiny(loaded, LOW), pixels(1)
    both = LayerPath(encoder, (LOW, PROJ))
    tape = both.record([(views,)], tokens=True)
    value = tape.tokens[0].tokens.square().sum(dim=(1, 2, 3, 4))
    for place, name in enumerate((LOW, PROJ)):
        alone = token_path(encoder, gradient_path(encoder), ()) if place == 0 else None
        alone = alone or LayerPath(replace(encoder, target_layer=name))
        single = alone.record([(views,)], tokens=True)
        expected = alone.token_factors(
            single, single.tokens[0].tokens.square().sum(dim=(1, 2, 3, 4))
        )
        ours = both.token_factors(tape, value, place)
        assert torch.allclose(ours.left, expected.left, atol=1e-6)
        assert torch.equal(ours.right, expected.right)


@pytest.mark.parametrize("layers", [(PROJ, "idle"), (LOW, "idle")])
def test_a_layer_that_no_gradient_reaches_is_named(loaded: Any, layers: tuple[str, ...]) -> None:
    """Behind the embedding, or beside it: on the fast path and on the general one."""
    encoder = tiny(loaded, layers[0])
    encoder.module.idle = nn.Linear(64, 64)
    encoder.module.norm.register_forward_hook(_also_run(encoder.module.idle))
    with pytest.raises(UsageError) as caught:
        gradient_path(encoder, layers=layers).record([(pixels(1),)])
    assert caught.value.where == "--target-layer idle"


def test_a_layer_that_cannot_be_served_beside_the_projection_is_named(loaded: Any) -> None:
    """One that never runs behind it, where the fast path is what the projection has."""
    encoder = tiny(loaded)
    encoder.module.idle = nn.Linear(64, 64)
    with pytest.raises(UsageError, match="beside") as caught:
        gradient_path(encoder, layers=(PROJ, FC2, "idle"))
    assert caught.value.where == "--target-layer idle"


def _also_run(layer: nn.Module) -> Any:
    def hook(module: nn.Module, entered: Any, output: Tensor) -> None:
        layer(output.detach())

    return hook


def test_projections_of_one_shape_are_one_and_share_the_memory() -> None:
    """Equal shapes, equal matrix (the paper's); what one keeps, another has not left to keep."""
    one, other = ProjectionSpec("binary", 8, 5000, 0, 50), ProjectionSpec("binary", 8, 9000, 0, 90)
    made = projections_of(
        [one, other, one],
        dtype=torch.float32,
        device=torch.device("cpu"),
        cache_bytes=8 * 14000 * 4,
    )
    assert made[0] is made[2]
    assert made[0].cached_bytes + made[1].cached_bytes == 8 * 14000 * 4
    tight = projections_of(
        [one, other], dtype=torch.float32, device=torch.device("cpu"), cache_bytes=8 * 10000 * 4
    )
    assert tight[0].cached_bytes == 8 * 5000 * 4
    assert tight[1].cached_bytes == 8 * 9000  # one byte an entry, as they are made
    rows = torch.randn(2, 9000)
    assert torch.equal(tight[1](rows), made[1](rows))
