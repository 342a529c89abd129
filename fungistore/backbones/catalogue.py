"""What backbones there are: names and sizes, read off models built without any weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import timm
import torch
from timm.layers import to_2tuple

from fungistore.backbones.backbone import default_target, embedding_dim, keeps_head

FAMILIES = ("vision_transformer", "deit", "eva", "beit")


@dataclass(frozen=True)
class BackboneCard:
    """One line of the catalogue; `parameters` is a count, `image_size` pixels a side."""

    name: str
    parameters: int
    image_size: int
    patch_size: int
    embedding_dim: int
    target_layer: str | None


def find_backbones(pattern: str) -> list[str]:
    """Return the names that match a shell pattern or contain it, with their pretrained tags."""
    names = [
        name
        for family in FAMILIES
        for pretrained in (True, False)
        for name in timm.list_models(module=family, pretrained=pretrained)
    ]
    if not any(mark in pattern for mark in "*?["):
        pattern = f"*{pattern}*"
    return sorted({name for name in names if fnmatch(name, pattern)})


def describe_backbones(names: list[str]) -> Iterator[BackboneCard]:
    """Yield a card for each name; models are built on the meta device, so nothing is downloaded."""
    for name in names:
        options: dict[str, Any] = {} if keeps_head(name) else {"num_classes": 0}
        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False, **options)
        yield BackboneCard(
            name=name,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            image_size=model.pretrained_cfg["input_size"][-1],
            patch_size=to_2tuple(model.patch_embed.patch_size)[0],
            embedding_dim=embedding_dim(model),
            target_layer=default_target(model),
        )
