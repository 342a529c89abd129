"""Frozen timm vision transformers."""

from fungistore.backbones.backbone import Backbone, load_backbone, prepare_trunk
from fungistore.backbones.catalogue import BackboneCard, describe_backbones, find_backbones
from fungistore.backbones.quantized import multiplies_exactly

__all__ = [
    "Backbone",
    "BackboneCard",
    "describe_backbones",
    "find_backbones",
    "load_backbone",
    "multiplies_exactly",
    "prepare_trunk",
]
