"""The family of timm's vision transformers; imports timm, and so torch, only where it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fungistore.backbones.families import BackboneCard

if TYPE_CHECKING:
    from fungistore.backbones.encoder import Encoder


class TimmFamily:
    """timm's plain vision transformers, by timm's own names."""

    modality: ClassVar[str] = "image"

    def load(
        self,
        name: str,
        *,
        weights: Path | None,
        image_size: int | None,
        target_layer: str | None,
        view_size: str | int,
    ) -> Encoder:
        """Build a model; see `load_timm_vit`."""
        from fungistore.backbones.timm_vit.loading import load_timm_vit

        return load_timm_vit(
            name,
            weights=weights,
            image_size=image_size,
            target_layer=target_layer,
            view_size=view_size,
        )

    def find(self, pattern: str) -> list[str]:
        """Return timm's names with their pretrained tags."""
        from fungistore.backbones.timm_vit.catalogue import find_models

        return find_models(pattern)

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield cards, of models that are built on the meta device."""
        from fungistore.backbones.timm_vit.catalogue import describe_models

        return describe_models(names)
