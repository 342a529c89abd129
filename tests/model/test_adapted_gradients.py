"""Gradients of adapted models: what the fast path, the general path and autograd say of them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fungistore.backbones.adapters.adapter import Adapter, run_behind, trained_state
from fungistore.backbones.adapters.adaptformer import AdaptFormer
from fungistore.backbones.adapters.full import Full
from fungistore.backbones.adapters.lora import LoRA
from fungistore.backbones.adapters.ssf import SSF, ScaleShift
from fungistore.backbones.adapters.vpt import VPT
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.gradients.class_token import ClassTokenPath
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import ViewOutputs
from fungistore.objectives.simclr import SimCLR

SIDE, DEPTH = 32, 2
METHODS: dict[str, Adapter] = {
    "full": Full(),
    "deep": VPT(prompts=3),
    "shallow": VPT(prompts=3, depth="shallow"),
    "ssf": SSF(),
    "adaptformer": AdaptFormer(width=5, scale=0.7),
    "lora": LoRA(rank=2, alpha=6.0),
}


def adapted(method: str, depth: int = DEPTH) -> TimmViT:
    """A random DINOv2-like encoder with an adapter that was trained, as if, and merged."""
    torch.manual_seed(0)
    model: Any = VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=32, depth=depth, num_heads=4, num_classes=0,
        init_values=0.5, reg_tokens=1,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    METHODS[method].attach(model, seed=0)
    for tensor in trained_state(model).values():
        tensor.data += 0.2 * torch.randn_like(tensor)
    METHODS[method].merge(model)
    return TimmViT(
        name="tiny", module=model.requires_grad_(False), image_size=SIDE, patch_size=8,
        embedding_dim=32, token_dim=32, prefix_tokens=2, pooling="token",
        target_layer=f"blocks.{depth - 1}.attn.proj", weights_hash="",
        data_config=resolve_data_config({}, model=timm.create_model("test_vit")),
    )  # fmt: skip


def noise(samples: int, views: int) -> Tensor:
    """Views of samples that do not look alike."""
    torch.manual_seed(2)
    return torch.randn(samples, views, 3, SIDE, SIDE) + 2 * torch.randn(samples, views, 3, 1, 1)


def by_autograd(encoder: TimmViT, pixels: Tensor, losses: Any) -> Tensor:
    """The gradient of the target's weight and bias, one image at a time."""
    assert isinstance(encoder.target, nn.Linear)
    target, rows = encoder.target.requires_grad_(True), []
    for image in pixels:
        target.zero_grad()
        losses(encoder.module(image)[None]).sum().backward()
        assert target.weight.grad is not None
        assert target.bias.grad is not None
        rows.append(torch.cat([target.weight.grad, target.bias.grad[:, None]], dim=1))
    target.requires_grad_(False)
    return torch.stack(rows)


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("objective", [KL(), SimCLR()], ids=["kl", "simclr"])
@pytest.mark.parametrize("method", METHODS)
def test_an_adapted_models_gradients_agree_on_both_paths(method: str, objective: Any) -> None:
    """Of KL and SimCLR, to 1e-5 of autograd's; every method takes the fast path."""
    pixels = noise(2, 3 if objective.name == "simclr" else 1)
    torch.manual_seed(1)
    heads = {name: nn.Linear(32, dim) for name, dim in objective.needs.heads.items()}
    bank = torch.randn(10, 96) if objective.name == "simclr" else None

    def losses(embeddings: Tensor) -> Tensor:
        found: Tensor = objective.losses(ViewOutputs(embeddings), heads, bank)
        return found

    expected = by_autograd(adapted(method), pixels, losses)
    fast = gradient_path(adapted(method))
    assert isinstance(fast, ClassTokenPath)
    for path in (fast, LayerPath(adapted(method))):
        tape = path.record([(pixels,)])
        for ours, theirs in zip(tape.gradients(losses(tape.embeddings)), expected, strict=True):
            assert error(ours, theirs) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path_of", [gradient_path, LayerPath])
def test_patches_are_those_of_the_image_alone(method: str, path_of: Any) -> None:
    """What `forward_features` gives, without class token, register and prompts."""
    encoder, pixels = adapted(method), noise(2, 1)
    expected = encoder.module.forward_features(pixels[:, 0])[:, 2:].unflatten(1, (4, 4))
    embeddings = encoder.module(pixels[:, 0])
    tape = path_of(encoder).record([(pixels,)], patches=True)
    assert tape.patches.tokens.shape == (2, 4, 4, 32)
    assert error(tape.patches.tokens, expected) < 1e-5
    assert error(tape.embeddings[:, 0].detach(), embeddings) < 1e-5


def test_shallow_prompts_of_a_single_block_enter_and_leave_it() -> None:
    """The fast path's last block is the first one then."""
    encoder, pixels = adapted("shallow", depth=1), noise(2, 1)
    expected = encoder.module(pixels[:, 0])
    tape = gradient_path(encoder).record([(pixels,)])
    assert error(tape.embeddings[:, 0].detach(), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("method", METHODS)
def test_a_faster_trunk_keeps_the_gradients_direction(method: str, dtype: torch.dtype) -> None:
    """With the trunk in bfloat16 or eight bits, KL gradients have a cosine above 0.99."""
    gradients = []
    for one in (torch.float32, dtype):
        encoder = adapted(method, depth=3)
        torch.manual_seed(1)
        heads = {"projection": nn.Linear(32, 768)}
        tape = gradient_path(encoder, one).record([(noise(2, 1),)])
        found = tape.gradients(KL().losses(ViewOutputs(tape.embeddings), heads)).flatten(1)
        gradients.append(nn.functional.normalize(found, dim=1))
    assert float((gradients[0] * gradients[1]).sum(dim=1).min()) > 0.99


def test_eight_bits_leave_a_bottleneck_as_it_is() -> None:
    """What was trained stays in float32; the layers beside it are replaced."""
    encoder = adapted("adaptformer", depth=3)
    gradient_path(encoder, torch.int8)
    middle = encoder.module.blocks[1]
    assert type(middle.mlp.fc1).__name__ == "Int8Linear"
    assert middle.mlp.adaptformer.down.dtype == torch.float32


@pytest.mark.parametrize("layer", ["attn.qkv", "attn.proj", "attn", ""])
def test_an_addition_to_the_last_attention_takes_the_general_path(layer: str) -> None:
    """The fast path reads its weights, and would pass over what runs in a hook there."""
    encoder = adapted("full")
    assert encoder.class_token_split() is not None
    block = encoder.module.blocks[-1]
    run_behind(block.get_submodule(layer), "more", ScaleShift(torch.ones(32)))
    assert encoder.class_token_split() is None
    elsewhere = adapted("full")
    run_behind(elsewhere.module.blocks[-1].mlp, "more", ScaleShift(torch.ones(32)))
    assert elsewhere.class_token_split() is not None
