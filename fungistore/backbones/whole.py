"""Encoders that see whole images: squeezed into the square input, nothing cropped off.

What is told of every place of an image, such as a mask, then fits its tokens place by place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fungistore.backbones.encoder import Encoder
from fungistore.backbones.families import find_family, split_model
from fungistore.errors import UsageError

SQUASH = "squash"  # timm's word for it
DENSE_SIZE = 512  # pixels a side (FUNGI, table 23)


def can_see_whole(encoder: Encoder) -> bool:
    """Whether its transform is one of timm's, which may be told not to crop."""
    return hasattr(encoder, "data_config")


def seeing_whole(encoder: Encoder) -> Encoder:
    """Return an encoder whose transform squeezes whole images into its input.

    Raises:
        UsageError: it has a transform of its own.
    """
    if not can_see_whole(encoder):
        raise UsageError(
            "the model's transform cannot be told not to crop",
            where="--crop whole",
            expected="a model of timm's or open_clip's",
            found=f"{encoder.family}:{encoder.name}",
            hint="give a module of your own a transform that does not: fungi.Encoder(module, ...)",
        )
    some: Any = encoder
    config = {**some.data_config, "crop_mode": SQUASH, "crop_pct": 1.0}
    whole: Encoder = replace(some, data_config=config)
    return whole


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
