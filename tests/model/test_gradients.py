"""Per-sample gradients against plain autograd of the same loss through the same timm model."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from fungistore.backbones import Backbone, load_backbone
from fungistore.gradients import ClassTokenPath, LayerPath, takes_class_token_path
from fungistore.objectives import DINO, KL, SimCLR

CLASS_TOKEN_MODELS = [
    "test_vit",  # class token, layer scale off
    "deit_tiny_patch16_224",
    "vit_small_patch14_dinov2",  # layer scale
    "vit_small_patch14_reg4_dinov2",  # layer scale and register tokens
    "vit_xsmall_patch16_clip_224",  # norm_pre and a projection head of another width
    "deit3_small_patch16_224",  # position embeddings without the class token
]
OTHER_MODELS = [
    "vit_base_patch16_gap_224",  # average pool, no class token
    "vit_base_patch16_siglip_224",  # attention pool
    "deit_tiny_distilled_patch16_224",  # two pooled tokens
    "eva02_tiny_patch14_224",  # rotary positions
    "beit_base_patch16_224",  # relative positions
    "test_vit2",
]


def small(name: str, target_layer: str | None = None) -> Backbone:
    """A randomly initialised backbone at 4 x 4 patches, with non-trivial norms and layer scales."""
    torch.manual_seed(0)
    patch = timm.create_model(name, pretrained=False, num_classes=0).patch_embed.patch_size[0]
    options = {"depth": 3} if "base" in name else {}
    clip = "clip" in name
    model = timm.create_model(
        name,
        pretrained=False,
        img_size=4 * patch,
        **options,
        **({} if clip else {"num_classes": 0}),
    ).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.requires_grad_(False)
    return Backbone(
        name=name,
        model=model,
        image_size=4 * patch,
        patch_size=patch,
        embedding_dim=model.head.out_features if clip else model.num_features,
        token_dim=model.embed_dim,
        prefix_tokens=model.num_prefix_tokens,
        pooling=str(model.global_pool),
        target_layer=target_layer or f"blocks.{len(model.blocks) - 1}.attn.proj",
        data_config={},
        weights_hash="",
    )


def heads_for(objective: KL | DINO | SimCLR, width: int) -> dict[str, nn.Linear]:
    torch.manual_seed(1)
    return {name: nn.Linear(width, d) for name, d in objective.head_widths().items()}


def autograd_oracle(
    backbone: Backbone,
    views: Tensor,
    objective: KL | DINO | SimCLR,
    heads: dict[str, nn.Linear],
    negatives: Tensor,
) -> tuple[Tensor, Tensor]:
    """One image at a time: loss.backward() into the target's weight and bias."""
    target = backbone.target.requires_grad_(True)
    rows = []
    embeddings = []
    for image in views:
        target.zero_grad()
        embedding = backbone.model(image)[None]
        objective.losses(embedding, heads, negatives).sum().backward()
        columns = [target.weight.grad]
        if target.bias is not None:
            columns.append(target.bias.grad[:, None])
        rows.append(torch.cat(columns, dim=1))
        embeddings.append(embedding.detach())
    target.requires_grad_(False)
    return torch.stack(rows), torch.cat(embeddings)


def relative_error(ours: Tensor, oracle: Tensor) -> float:
    return float((ours - oracle).norm() / oracle.norm())


def check(
    backbone: Backbone,
    path_type: type[ClassTokenPath] | type[LayerPath],
    objective: KL | DINO | SimCLR,
    views: int,
) -> None:
    torch.manual_seed(2)
    pixels = torch.randn(2, views, 3, backbone.image_size, backbone.image_size)
    heads = heads_for(objective, backbone.embedding_dim)
    negatives = torch.randn(10, 96)
    oracle, embeddings = autograd_oracle(backbone, pixels, objective, heads, negatives)
    tape = path_type(backbone, torch.float32).record(pixels.split(2, dim=1))
    gradients = tape.gradients(objective.losses(tape.embeddings, heads, negatives))
    assert gradients.shape == oracle.shape
    assert relative_error(tape.embeddings.detach(), embeddings) < 1e-5
    for ours, theirs in zip(gradients, oracle, strict=True):
        assert relative_error(ours, theirs) < 1e-5
        assert relative_error(ours[:, -1], theirs[:, -1]) < 1e-5  # the bias alone


@pytest.mark.parametrize("name", CLASS_TOKEN_MODELS)
@pytest.mark.parametrize("path_type", [ClassTokenPath, LayerPath])
def test_class_token_models_agree_with_autograd_on_both_paths(
    name: str, path_type: type[ClassTokenPath] | type[LayerPath]
) -> None:
    """KL and DINO gradients of a class-token model equal autograd's on the fast and general path."""
    backbone = small(name)
    assert takes_class_token_path(backbone)
    check(backbone, path_type, KL(), views=1)
    check(backbone, path_type, DINO(global_crops=2, local_crops=2), views=4)


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_other_models_agree_with_autograd_on_the_general_path(name: str) -> None:
    """Any pooling works on the general path, and the fast path does not claim such models."""
    backbone = small(name)
    if name != "test_vit2":
        assert not takes_class_token_path(backbone)
    check(backbone, LayerPath, KL(), views=1)
    check(backbone, LayerPath, SimCLR(), views=3)
