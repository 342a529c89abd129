"""Vision transformers as Hugging Face's transformers names their weights, under published names.

ViT, DeiT, DINO and MAE come out under timm's names, DINOv2 under its authors', CLIP's image side
under OpenAI's: those that timm itself knows to read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

_ROOTS = re.compile(r"^(vit|deit|dinov2|dinov2_with_registers|beit|model|base_model)\.")
_BLOCK = re.compile(r"^encoder\.layer\.([0-9]+)\.(.+)$")
_QUERY = re.compile(r"(^|\.)encoder\.layer\.[0-9]+\.attention\.attention\.query\.weight$")
_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
    "cls_classifier.weight": "head.weight",
    "cls_classifier.bias": "head.bias",
    "distillation_classifier.weight": "head_dist.weight",
    "distillation_classifier.bias": "head_dist.bias",
}
_PARTS = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
}
_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}

_CLIP = "vision_model."
_CLIP_CLASS = _CLIP + "embeddings.class_embedding"
_CLIP_BLOCK = re.compile(r"^encoder\.layers\.([0-9]+)\.(.+)$")
_CLIP_NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_CLIP_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def is_of_transformers(names: Collection[str]) -> bool:
    """Whether names are those of that library."""
    return any(_QUERY.search(name) for name in names) or _CLIP_CLASS in names


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under published names; what none of them stands for keeps its name."""
    if _CLIP_CLASS in tensors:
        return _clip(tensors)
    found = {}
    for stored, value in tensors.items():
        name = _ROOTS.sub("", stored)
        block = _BLOCK.match(name)
        if block is None:
            found[_NAMES.get(name, name)] = value
            continue
        number, inner = block[1], block[2]
        part, _, kind = inner.rpartition(".")
        if part == "attention.attention.query":
            joined = [
                tensors[stored.replace(".query.", f".{one}.")] for one in ("query", "key", "value")
            ]
            found[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(joined)
        elif not part.startswith("attention.attention."):
            known = _SCALES.get(inner) or f"{_PARTS.get(part, part)}.{kind}"
            found[f"blocks.{number}.{known}"] = value
    return found


def _clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the image side of a CLIP alone; its texts are no part of an image model."""
    found = {}
    for stored, value in tensors.items():
        if stored == "visual_projection.weight":
            found["visual.proj"] = value.T.contiguous()
        if not stored.startswith(_CLIP):
            continue
        name = stored.removeprefix(_CLIP)
        block = _CLIP_BLOCK.match(name)
        if block is None:
            if name in _CLIP_NAMES:  # not position_ids
                found[f"visual.{_CLIP_NAMES[name]}"] = value
            continue
        head = f"visual.transformer.resblocks.{block[1]}."
        part, _, kind = block[2].rpartition(".")
        if part == "self_attn.q_proj":
            joined = [
                tensors[stored.replace(".q_proj.", f".{one}_proj.")] for one in ("q", "k", "v")
            ]
            found[f"{head}attn.in_proj_{kind}"] = torch.cat(joined)
        elif part in _CLIP_PARTS:
            found[f"{head}{_CLIP_PARTS[part]}.{kind}"] = value
    return found
