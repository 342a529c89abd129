"""Patches that a vision transformer must not see: a mask token stands in their tokens' place.

It comes behind the patch embedding and before the position embedding, so that the model knows where
something is missing. It is the token that the weights learnt for it, or else the mean of the view's
own patch embeddings, which says nothing of one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungistore.backbones.checkpoints import encoder_of
from fungistore.backbones.timm_vit.fitting import MASK_TOKEN


def learnt_mask_token(state: Mapping[str, Any], width: int) -> Float[Tensor, " d"] | None:
    """Return the mask token of stored weights, which timm leaves out; None where they have none.

    One beside a decoder, as MAE's, is the decoder's.
    """
    found = encoder_of(state).tensors.get(MASK_TOKEN)
    return found.flatten() if found is not None and found.numel() == width else None


class _Masking(local):
    """What is masked in this thread's forward, and what stands in its place."""

    masked: Bool[Tensor, "n r c"] | None = None
    token: Float[Tensor, " d"] | None = None


_MASKING = _Masking()


def can_mask(patch_embed: nn.Module) -> None:
    """Let `masking` have its effect on a patch embedding, by a hook."""
    if _mask not in patch_embed._forward_hooks.values():
        patch_embed.register_forward_hook(_mask)


@contextmanager
def masking(
    masked: Bool[Tensor, "n r c"] | None = None, *, token: Float[Tensor, " d"] | None
) -> Iterator[None]:
    """Mask patches of the forward within.

    Args:
        masked: True where a patch is masked; None: none are.
        token: that stands there; None: the mean of the view's patch embeddings.
    """
    _MASKING.masked, _MASKING.token = masked, token
    try:
        yield
    finally:
        _MASKING.masked = None


def _mask(
    module: nn.Module, entered: tuple[Tensor, ...], tokens: Float[Tensor, "n ..."]
) -> Float[Tensor, "n ..."]:
    """Hook: tokens are [n, t, d], or [n, r, c, d] where the size of images may differ."""
    if _MASKING.masked is None:
        return tokens
    flat, token = tokens.flatten(1, -2), _MASKING.token
    if token is None:
        token = flat.float().mean(dim=1, keepdim=True)
    masked = _MASKING.masked.flatten(1)[..., None]
    return torch.where(masked, token.to(flat), flat).view_as(tokens)
