"""What an image encoder's own transform may be told: what of an image it shows, and how bright.

Whole images are squeezed into the square input, nothing cropped off: what is told of every place of
an image, such as a mask, then fits its tokens place by place. FUNGI's published rows of AugReg's
and EVA's models were made with timm's defaults and ImageNet's statistics, whatever the weights ask.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fungistore.backbones.encoder import Encoder
from fungistore.backbones.families import find_family, split_model
from fungistore.choices import Crop
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.modalities.requests import Normalization

SQUASH = "squash"  # timm's word for it
DENSE_SIZE = 512  # pixels a side (FUNGI, table 23)
CROPS: dict[Crop, Config] = {  # in timm's words
    "whole": {"crop_mode": SQUASH, "crop_pct": 1.0},
    # timm's defaults: the short side to 256 pixels of which the middle 224 are seen
    "reference": {"crop_mode": "center", "crop_pct": 0.875, "interpolation": "bicubic"},
}


def sees_whole(encoder: Encoder, crop: Crop, frozen: Config, *, dense: bool) -> bool:
    """Whether images are squeezed into the input whole: asked for, begun so, or dense.

    Args:
        encoder: the encoder.
        crop: what was asked for.
        frozen: flattened configuration of the feature set, {} where it is new.
        dense: gradients of tokens are wanted, which masks may be held against.
    """
    if crop != "auto":
        return crop == "whole"
    if "backbone.transform.crop_mode" in frozen:
        is_uncropped = frozen.get("backbone.transform.crop_pct", 1) == 1
        return is_uncropped and bool(frozen["backbone.transform.crop_mode"] == SQUASH)
    return dense and not frozen and _has_timms_transform(encoder)


def with_transform(encoder: Encoder, crop: Crop, normalization: Normalization) -> Encoder:
    """Return an encoder whose transform crops and normalises as it is told; all views follow.

    Raises:
        UsageError: it has a transform of its own, and is told anything.
    """
    told: Config = {**CROPS.get(crop, {})}
    flag = f"--crop {crop}"
    if normalization == "imagenet":
        from fungistore.modalities.image.recipes import IMAGENET

        told |= dict(zip(("mean", "std"), IMAGENET, strict=True))
        flag = "--normalization imagenet"
    if not told:
        return encoder
    if not _has_timms_transform(encoder):
        raise UsageError(
            "the model's transform is its own, and cannot be told how to crop or normalise",
            where=flag,
            expected="a model of timm's or open_clip's",
            found=f"{encoder.family}:{encoder.name}",
            hint="give a module of your own another transform: fungi.Encoder(module, ...)",
        )
    some: Any = encoder
    other: Encoder = replace(some, data_config={**some.data_config, **told})
    return other


def _has_timms_transform(encoder: Encoder) -> bool:
    """Whether its transform is one of timm's, which may be told how to crop and to normalise."""
    return hasattr(encoder, "data_config")


def dense_size(model: str) -> int | None:
    """Return the multiple of a model's patch that is nearest to 512 pixels, None without patches.

    Raises:
        UsageError: there is no such family.
    """
    family, name = split_model(model)
    try:
        card = next(iter(find_family(family).describe([name])), None)
    except UsageError:  # loading it will say why
        return None
    if card is None or not card.patch_size or card.image_size is None:
        return None
    return max(1, round(DENSE_SIZE / card.patch_size)) * card.patch_size
