"""What backbones there are: names and sizes, read off models built without any weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
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
        weights = timm.get_pretrained_cfg(name)
        classes = weights.num_classes if keeps_head(name) else 0
        model = _sketch(name.partition(".")[0], classes)
        yield BackboneCard(
            name=name,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            image_size=weights.input_size[-1],
            patch_size=to_2tuple(model.patch_embed.patch_size)[0],
            embedding_dim=embedding_dim(model),
            target_layer=default_target(model),
        )


@lru_cache(maxsize=1)  # names come sorted, so the weights of one architecture are neighbours
def _sketch(architecture: str, classes: int) -> Any:
    with torch.device("meta"):
        return timm.create_model(architecture, pretrained=False, num_classes=classes)
