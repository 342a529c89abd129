"""Which gradient path suits an encoder."""

from __future__ import annotations

import torch

from fungistore.backbones.encoder import Encoder
from fungistore.gradients.class_token import ClassTokenPath
from fungistore.gradients.general import LayerPath
from fungistore.gradients.tape import GradientPath


def gradient_path(
    encoder: Encoder, dtype: torch.dtype = torch.float32, *, compiled: bool = False
) -> GradientPath:
    """Return the fastest exact path for an encoder; it takes the encoder's module over.

    Args:
        encoder: the encoder, in float32.
        dtype: of what runs before the target layer's block; the rest stays in float32.
        compiled: compile that.
    """
    encoder.prepare_trunk(dtype, compiled=compiled)
    split = encoder.class_token_split()
    return LayerPath(encoder) if split is None else ClassTokenPath(encoder, split)


def token_path(encoder: Encoder, path: GradientPath) -> LayerPath:
    """Return a path for losses of tokens, beside (or the same as) the one that an encoder has."""
    return path if isinstance(path, LayerPath) else LayerPath(encoder)
