"""What a timm model is made of, read off one forward of its sketch: no weights, no numbers.

timm's families share attributes by name and mean different things by them: a hybrid's patches are
cells of a convolution's map, some models have no classifier's place, some make maps of channels. A
forward on the meta device costs milliseconds, and tells before anything is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch

from fungistore.errors import UsageError

NEEDED = ("blocks", "embed_dim", "forward_features", "forward_head", "num_features")
HINT = "fungi models '*vit*' lists names"


@dataclass(frozen=True)
class Anatomy:
    """What a model makes of one image.

    Attributes:
        height, width: of the image in pixels.
        patch_size: side in pixels of what becomes one token.
        prefix_tokens: class, distillation and register tokens in front of the others.
        has_places: whether the other tokens are the patches, row by row.
    """

    height: int
    width: int
    patch_size: int
    prefix_tokens: int
    has_places: bool


def is_plain(model: Any) -> bool:
    """Whether a model has the parts of a vision transformer."""
    patch_embed = getattr(model, "patch_embed", None)
    return all(hasattr(model, n) for n in NEEDED) and hasattr(patch_embed, "patch_size")


def examine(sketch: Any, name: str, image_size: int | None) -> Anatomy:
    """Return what a model makes of an image.

    Args:
        sketch: the model on the meta device.
        name: of the model, for errors.
        image_size: side of the image; None: the model's own size.

    Raises:
        UsageError: the model is no vision transformer that can be used.
    """
    if not is_plain(sketch):
        raise _unusable(name, type(sketch).__name__)
    own = sketch.pretrained_cfg["input_size"][-2:]
    height, width = (image_size, image_size) if image_size is not None else own
    try:
        with torch.no_grad(), torch.device("meta"):
            tokens = sketch.eval().forward_features(torch.zeros(1, 3, height, width))
            embedding = sketch.forward_head(tokens)
    except Exception as error:  # timm's models raise whatever they meet
        found = f"{type(sketch).__name__}: {str(error).partition(chr(10))[0]}"
        raise _unusable(name, found) from error
    if embedding.ndim != 2:
        raise _unusable(name, f"an output of shape {list(embedding.shape)[1:]}, not a vector")
    prefix = getattr(sketch, "num_prefix_tokens", 1)
    named = sketch.patch_embed.patch_size
    nominal = named if isinstance(named, int) else named[0]
    if tokens.ndim != 3:
        return Anatomy(height, width, nominal, prefix, has_places=False)
    count = tokens.shape[1] - prefix
    side = isqrt(height * width // count) if count > 0 else 0
    has_places = side > 0 and (height // side) * (width // side) == count
    return Anatomy(height, width, side if has_places else nominal, prefix, has_places)


def _unusable(name: str, found: str) -> UsageError:
    return UsageError(
        "the model is not a plain vision transformer",
        where=f"--model {name}",
        expected="blocks over patches, whose tokens a head pools into one vector",
        found=found,
        hint=HINT,
    )
