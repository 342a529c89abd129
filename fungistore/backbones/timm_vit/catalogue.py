"""What models timm has: names and sizes, read off models built without any weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.layers import to_2tuple

from fungistore.backbones.families import BackboneCard
from fungistore.backbones.timm_vit.cards import MODULES, SHIPPED, write_cards
from fungistore.backbones.timm_vit.loading import default_target, embedding_dim
from fungistore.backbones.timm_vit.variants import keeps_head


def list_models() -> list[str]:
    """Return the names of the models that can be used, with their pretrained tags too."""
    return sorted(
        {
            name
            for module in MODULES
            for pretrained in (True, False)
            for name in timm.list_models(module=module, pretrained=pretrained)
        }
    )


def describe_models(names: list[str]) -> Iterator[BackboneCard]:
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


if __name__ == "__main__":  # after another timm was pinned: make the package's list anew
    write_cards({card.name: card for card in describe_models(list_models())}, SHIPPED)
