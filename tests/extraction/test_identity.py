"""What decides a feature is in its fingerprint, field by field, and what is frozen is used."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import resolve_data_config
from torch.nn import functional

from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.extraction.drawing import Drawer
from fungistore.extraction.freeze import (
    Frozen,
    array_configs,
    head_tensors,
    make_features,
)
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.extraction.target_layers import TargetLayers
from fungistore.fingerprint import fingerprint
from fungistore.modalities.modality import find_modality
from fungistore.objectives.deepcluster import DeepCluster
from fungistore.objectives.dino import DINO
from fungistore.objectives.ibot import IBOT
from fungistore.objectives.kl import KL
from fungistore.objectives.simclr import SimCLR
from fungistore.settings import fields_of
from tiny_world import TINY

ALL = ("embeddings", "kl", "dino", "simclr", "deepcluster", "ibot", "patches")

# What of an encoder follows from its model and weights, or decides none of its outputs.
FOLLOWS = {
    "module",
    "patch_size",
    "embedding_dim",
    "token_dim",
    "prefix_tokens",
    "layout",
    "cells",
    "is_plain",
    "candidates",
    "origin",
    "left_out",
    "doubts",
    "taken",
    "masks_patches",
    "mask_token",  # of the stored weights
    "dtype",
}
OTHER = {
    "name": "another",
    "image_size": 48,
    "pooling": "avg",
    "target_layer": "blocks.0.attn.proj",
    "weights_hash": "0" * 32,
    "adapter": {"method": "ssf", "settings": {}, "digest": "0" * 32},
}
OTHER_TRANSFORM: dict[str, Any] = {
    "input_size": (3, 48, 48),
    "interpolation": "bilinear",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.1, 0.2, 0.3),
    "crop_pct": 0.123,
    "crop_mode": "squash",
}


@pytest.fixture(scope="module")
def resolved(tiny_weights: Path) -> Resolved:
    """The tiny model with every feature, on the CPU."""
    options = ExtractOptions(
        model=TINY, weights=str(tiny_weights), image_size=32, features=ALL, device="cpu"
    )
    return replace(resolve(options, {}), unit_rows=8)


def test_what_masked_patches_are_is_said(resolved: Resolved) -> None:
    """Of weights without a mask token, once, among the remarks."""
    said = [remark for remark in resolved.remarks if "masked patches" in remark]
    assert said == ["masked patches are the mean of a crop's: the weights have no mask token"]


def prints(resolved: Resolved) -> dict[str, str]:
    return {name: fingerprint(config) for name, config in array_configs(resolved).items()}


def other_encoder(resolved: Resolved, **changes: Any) -> Resolved:
    layer = changes.get("target_layer", resolved.layers.cut)
    layers = TargetLayers((layer,), layer)
    return replace(resolved, backbone=replace(resolved.backbone, **changes), layers=layers)


def test_every_field_of_an_encoder_is_judged() -> None:
    """A new field is either in the fingerprint, and below, or follows from what is."""
    assert {field.name for field in fields(TimmViT)} == FOLLOWS | OTHER.keys() | {"data_config"}


@pytest.mark.parametrize("name", OTHER)
def test_each_field_of_the_encoder_changes_the_fingerprints(resolved: Resolved, name: str) -> None:
    """Of all features; the target layer of gradients alone."""
    before, after = prints(resolved), prints(other_encoder(resolved, **{name: OTHER[name]}))
    changed = {feature for feature in ALL if before[feature] != after[feature]}
    assert changed == ({*ALL} - {"embeddings", "patches"} if name == "target_layer" else {*ALL})


def test_every_field_of_timms_transform_is_tried(resolved: Resolved) -> None:
    """A field that timm adds to its transform needs a place in the fingerprint."""
    assert resolved.backbone.data_config.keys() == OTHER_TRANSFORM.keys()
    assert resolve_data_config({}, model=resolved.backbone.module).keys() == OTHER_TRANSFORM.keys()


@pytest.mark.parametrize("name", OTHER_TRANSFORM)
def test_each_field_of_the_transform_changes_all_fingerprints(
    resolved: Resolved, name: str
) -> None:
    """Statistics, crop, interpolation and size each make other features."""
    config = dict(resolved.backbone.data_config)
    assert config[name] != OTHER_TRANSFORM[name]
    changes: dict[str, Any] = {"data_config": config | {name: OTHER_TRANSFORM[name]}}
    if name == "input_size":
        changes["image_size"] = OTHER_TRANSFORM[name][-1]
    before, after = prints(resolved), prints(other_encoder(resolved, **changes))
    assert all(before[feature] != after[feature] for feature in ALL)


@pytest.mark.parametrize("kind", [KL, DINO, SimCLR, DeepCluster, IBOT])
def test_each_parameter_of_an_objective_changes_its_fingerprint(
    resolved: Resolved, kind: type[Any]
) -> None:
    """A parameter's other value is another feature, and leaves the other features alone."""
    others: dict[str, Any] = {"direction": "uniform-last", "normalization": "imagenet"}
    others |= {"base_patches": 9, "augment": "full", "prototypes": 9}
    others |= {"assigned_by": "same-crops", "mask_aspect": 0.5}
    before = prints(resolved)
    for field in fields_of(kind, kind.name).values():
        value = field.default
        if field.name in others:
            other = others[field.name]
        elif isinstance(value, bool):
            other = not value
        elif isinstance(value, tuple):
            other = (value[0], value[1] - 0.01)
        else:
            other = value + 1
        objectives = {**resolved.options.objectives, kind.name: kind(**{field.name: other})}
        options = replace(resolved.options, objectives=objectives)
        after = prints(replace(resolved, options=options))
        changed = {feature for feature in ALL if before[feature] != after[feature]}
        assert changed == {kind.name}, field.name


@pytest.mark.parametrize("feature", ["kl", "dino", "simclr"])
def test_heads_are_the_frozen_ones_with_their_biases(resolved: Resolved, feature: str) -> None:
    """A head is drawn as a linear layer is, bias included, and applied as it is stored."""
    drawn = head_tensors(resolved, feature)
    bound = resolved.backbone.embedding_dim**-0.5
    for name in resolved.objective(feature).needs.heads:
        for tensor in (drawn[f"{name}.weight"], drawn[f"{name}.bias"]):
            assert 0.5 * bound < np.abs(tensor).max() <= bound
            assert abs(tensor.mean()) < 0.3 * bound
            assert len(np.unique(tensor)) > 0.9 * tensor.size
    bank = np.zeros((1, 96), np.float32) if feature == "simclr" else None
    maker = make_features(resolved, {feature: Frozen(drawn, bank)})
    inputs = torch.randn(3, resolved.backbone.embedding_dim)
    for name, head in maker._gradients[feature].heads.items():
        weight, bias = (torch.from_numpy(drawn[f"{name}.{part}"]) for part in ("weight", "bias"))
        assert torch.equal(head(inputs), functional.linear(inputs, weight, bias))


class Numbers:
    """Views that are what the stream gives."""

    groups = ()

    def on(self, device: torch.device) -> Numbers:
        return self

    def draw(self, item: Any, random: Any) -> tuple[np.ndarray]:
        return (random.words(4),)

    def render(self, drawn: Any, group: int, views: slice) -> Any:
        raise NotImplementedError


def test_each_objective_sees_views_of_its_own() -> None:
    """Two objectives of one recipe draw other views of a sample, the same every time."""
    recipes = {"dino": Numbers(), "simclr": Numbers()}

    def drawn(features: tuple[str, ...], sample: str = "a", seed: int = 0) -> dict[str, list[int]]:
        drawer = Drawer(find_modality("image"), Numbers(), recipes, seed)
        return {n: v[0].tolist() for n, v in drawer.draw(None, sample, features).items()}

    both = drawn(("dino", "simclr", "embeddings"))
    assert len({tuple(numbers) for numbers in both.values()}) == 3
    assert drawn(("simclr",)) == {"simclr": both["simclr"]}
    assert drawn(("simclr",), sample="b") != {"simclr": both["simclr"]}
    assert drawn(("simclr",), seed=1) != {"simclr": both["simclr"]}
