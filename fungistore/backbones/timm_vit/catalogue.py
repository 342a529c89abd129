"""What models timm has: names and sizes, read off models built without any weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.layers import to_2tuple

from fungistore.backbones.families import BackboneCard
from fungistore.backbones.timm_vit.anatomy import examine, is_plain
from fungistore.backbones.timm_vit.cards import SHIPPED, write_cards
from fungistore.backbones.timm_vit.targets import default_target
from fungistore.backbones.timm_vit.variants import keeps_head
from fungistore.errors import UsageError


def list_models() -> list[str]:
    """Return the names of all models, with their pretrained tags too."""
    return sorted({*timm.list_models(pretrained=True), *timm.list_models()})


def describe_models(names: list[str]) -> Iterator[BackboneCard]:
    """Yield a card for each name; models are built on the meta device, so nothing is downloaded.

    A model that gives no embedding has no card.
    """
    for name in names:
        weights = timm.get_pretrained_cfg(name)
        classes = weights.num_classes if keeps_head(name) else 0
        with suppress(UsageError):
            yield replace(
                _card(name.partition(".")[0], classes),
                name=name,
                image_size=weights.input_size[-1],
            )


@lru_cache(maxsize=2)  # names come sorted, so the weights of one architecture are neighbours
def _card(architecture: str, classes: int) -> BackboneCard:
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=classes)
    anatomy = examine(model, architecture, None)
    plain = is_plain(model)
    return BackboneCard(
        name=architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_size=anatomy.width,
        patch_size=to_2tuple(model.patch_embed.patch_size)[0] if plain else anatomy.patch_size,
        embedding_dim=anatomy.embedding_dim,
        target_layer=default_target(model, anatomy),
    )


if __name__ == "__main__":  # after another timm was pinned: make the package's list anew
    write_cards({card.name: card for card in describe_models(list_models())}, SHIPPED)
