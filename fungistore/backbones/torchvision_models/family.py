"""The family of torchvision's models; imports torchvision only where it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import TYPE_CHECKING, ClassVar, Unpack

from fungistore.backbones.families import BackboneCard, LoadSettings

if TYPE_CHECKING:
    from fungistore.backbones.encoder import Encoder


class TorchvisionFamily:
    """torchvision's classifiers: `resnet50`, `resnet50.IMAGENET1K_V2`, or one with a file."""

    modality: ClassVar[str] = "image"
    listed_by_name: ClassVar[bool] = True

    def load(self, name: str, **settings: Unpack[LoadSettings]) -> Encoder:
        """Build a model; see `load_torchvision`."""
        from fungistore.backbones.torchvision_models.loading import load_torchvision

        return load_torchvision(name, **settings)

    def find(self, pattern: str) -> list[str]:
        """Return the names with those of their weights."""
        from fungistore.backbones.torchvision_models.loading import list_names

        if not any(mark in pattern for mark in "*?["):
            pattern = f"*{pattern}*"
        return [name for name in list_names() if fnmatch(name, pattern)]

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield cards, of what torchvision itself says of its weights."""
        from fungistore.backbones.torchvision_models.loading import describe

        return map(describe, names)
