"""Which gradient path suits an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fungistore.backbones.encoder import Encoder
from fungistore.gradients.class_token import ClassTokenPath, refuse_unserved
from fungistore.gradients.general import LayerPath
from fungistore.gradients.tape import GradientPath


def gradient_path(
    encoder: Encoder,
    dtype: torch.dtype = torch.float32,
    *,
    compiled: bool = False,
    layers: Sequence[str] = (),
) -> GradientPath:
    """Return the fastest exact path for an encoder; it takes the encoder's module over.

    Args:
        encoder: the encoder, in float32; its target layer is the one that runs first.
        dtype: of what runs before that layer's block; the rest stays in float32.
        compiled: compile that.
        layers: names of all target layers; default: that one.

    Raises:
        UsageError: the path that suits the first layer does not serve another one.
    """
    encoder.prepare_trunk(dtype, compiled=compiled)
    split = encoder.class_token_split()
    if split is None:
        return LayerPath(encoder, layers)
    refuse_unserved(encoder, split, layers)
    return ClassTokenPath(encoder, split, layers)


def token_path(encoder: Encoder, path: GradientPath, layers: Sequence[str] = ()) -> LayerPath:
    """Return a path for losses of tokens, beside (or the same as) the one that an encoder has."""
    return path if isinstance(path, LayerPath) else LayerPath(encoder, layers)
