"""An encoder's transform as it is told: the reference code's crop, and ImageNet's statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision import transforms

from fungistore.backbones.families import load_backbone
from fungistore.backbones.transforms import sees_whole, with_transform
from fungistore.choices import Crop
from fungistore.errors import UsageError
from fungistore.extraction.freeze import array_configs
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.fingerprint import fingerprint
from fungistore.modalities.requests import Normalization
from fungistore.randomness import Stream
from tiny_world import TINY

WeightsFile = Callable[[str], Path]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN = ((0.5,) * 3, (0.5,) * 3)  # of timm's test model
FEATURES = ("embeddings", "kl", "dino", "simclr", "patches")


def resolved(
    weights: Path, crop: Crop = "auto", normalization: Normalization = "model"
) -> Resolved:
    options = ExtractOptions(
        model=TINY,
        weights=str(weights),
        image_size=224,
        features=FEATURES,
        crop=crop,
        normalization=normalization,
        device="cpu",
    )
    return replace(resolve(options, {}), unit_rows=8)


@pytest.mark.parametrize("normalization", ["model", "imagenet"])
def test_the_reference_crop_is_torchvisions(
    weights_file: WeightsFile, photos: list[NDArray[np.uint8]], normalization: Normalization
) -> None:
    """The short side to 256 pixels, bicubic, the middle 224 of them, and either statistics."""
    encoder = resolved(weights_file(TINY), "reference", normalization).backbone
    mean, std = OWN if normalization == "model" else (MEAN, STD)
    by_torchvision = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    for photo in photos[:3]:
        drawn = encoder.base_view.draw(photo, Stream(0))
        (found,) = encoder.base_view.render((torch.from_numpy(drawn[0])[None],), 0, slice(0, 1))
        expected = by_torchvision(Image.fromarray(photo))
        torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-6)


def test_statistics_are_those_of_all_views(weights_file: WeightsFile) -> None:
    """Of embeddings and KL, and of crops and windows whose objectives ask for the model's."""
    own = resolved(weights_file(TINY))
    other = resolved(weights_file(TINY), normalization="imagenet")
    views: Any = {"base": other.backbone.base_view, **other.views}
    assert {name: view.statistics for name, view in views.items()} == dict.fromkeys(
        ("base", "dino", "simclr"), (MEAN, STD)
    )
    assert own.backbone.base_view.statistics == OWN
    before, after = array_configs(own), array_configs(other)
    assert all(fingerprint(before[name]) != fingerprint(after[name]) for name in FEATURES)
    assert other.to_options().normalization == "imagenet"


def test_what_is_not_told_changes_nothing(weights_file: WeightsFile) -> None:
    """The default is the encoder as it was, and so are its fingerprints."""
    encoder = load_backbone(TINY, weights=weights_file(TINY), image_size=224)
    for crop in ("auto", "model"):
        assert with_transform(encoder, crop, "model") is encoder
    assert encoder.identity() == resolved(weights_file(TINY)).backbone.identity()


def test_whole_images_are_seen_where_nobody_says_otherwise(weights_file: WeightsFile) -> None:
    """With gradients of tokens, or as a feature set was begun; a crop that is named is kept to."""
    encoder = load_backbone(TINY, weights=weights_file(TINY), image_size=224)
    begun = {"backbone.transform.crop_mode": "squash", "backbone.transform.crop_pct": 1.0}
    for frozen in ({}, begun):
        for crop in ("model", "reference"):
            assert not sees_whole(encoder, crop, frozen, dense=True)
        assert sees_whole(encoder, "whole", frozen, dense=False)
    assert sees_whole(encoder, "auto", {}, dense=True)
    assert not sees_whole(encoder, "auto", {}, dense=False)
    assert sees_whole(encoder, "auto", begun, dense=False)


@pytest.mark.parametrize(
    ("crop", "normalization", "flag"),
    [
        ("reference", "model", "--crop reference"),
        ("whole", "model", "--crop whole"),
        ("auto", "imagenet", "--normalization imagenet"),
    ],
)
def test_a_transform_of_ones_own_is_told_nothing(
    crop: Crop, normalization: Normalization, flag: str
) -> None:
    """A module's transform is a function; the flag that asks for another is named."""

    class Encoder:
        family, name, module = "module", "mine", nn.Identity()

    encoder: Any = Encoder()
    with pytest.raises(UsageError, match=flag):
        with_transform(encoder, crop, normalization)
