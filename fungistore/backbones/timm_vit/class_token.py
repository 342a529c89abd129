"""timm's class-token models cut at the last block's attention output projection.

The trunk ends in two vectors a view: the attended class token that enters the projection, and the
residual stream beside it. What follows touches one token, and runs in float32. An adapter's prompts
are among the tokens that the class token attends to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fungistore.backbones.adapters.vpt import PROMPTS, Prompts
from fungistore.backbones.encoder import TokenGrid
from fungistore.backbones.timm_vit.masking import masking
from fungistore.modalities.views import Inputs


def splits_class_token(model: Any, target: nn.Linear) -> bool:
    """Whether a model pools its class token and the target is its last block's `attn.proj`.

    What an adapter adds may run anywhere but in the last attention, whose weights are read here.
    """
    if type(model) is not VisionTransformer or model.global_pool != "token":
        return False
    block: Any = model.blocks[-1]
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and type(block.attn.qkv) is nn.Linear
        and model.attn_pool is None
        and target is block.attn.proj
        and not any(map(_is_added_to, (block, block.attn, block.attn.qkv, target)))
    )


def _is_added_to(module: nn.Module) -> bool:
    """Whether an addition runs with a module, as its hook, other than prompts."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    additions = (getattr(hook, "__self__", hook) for hook in hooks)
    return any(isinstance(one, nn.Module) and not isinstance(one, Prompts) for one in additions)


class TimmSplit:
    """A model for which `splits_class_token` holds, in its two parts.

    Args:
        model: timm's, its trunk prepared.
        dtype: of the trunk's pixels; the last block makes patch tokens in it, too.
        to_grid: gives the patch tokens their rows and columns.
        mask_token: stands for patches that inputs mask; None: their view's mean does.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        to_grid: Callable[[Tensor], Tensor],
        mask_token: Tensor | None = None,
    ) -> None:
        self._model = model
        self._dtype = dtype
        self._to_grid = to_grid
        self._mask_token = mask_token
        self._block: Any = model.blocks[-1]
        self._prompts: Prompts | None = getattr(self._block, PROMPTS, None)
        self._patch_block = self._block
        if dtype != torch.float32:
            self._patch_block = copy.deepcopy(self._block).to(dtype)

    @property
    def projection(self) -> nn.Linear:
        """The last block's `attn.proj`."""
        layer: nn.Linear = self._block.attn.proj
        return layer

    def trunk(self, inputs: Inputs) -> Float[Tensor, "n t d"]:
        """Run everything before the last block."""
        pixels, *masked = inputs
        model = self._model
        with masking(*masked, token=self._mask_token):
            tokens = model.patch_embed(pixels.to(self._dtype))
        tokens = model._pos_embed(tokens)
        tokens = model.norm_pre(model.patch_drop(tokens))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        return tokens

    def attend(self, tokens: Float[Tensor, "n t d"], inputs: Inputs) -> Float[Tensor, "n i"]:
        """Return the last attention's output for the class token, in float32.

        One query meets all tokens, so neither keys nor values of all tokens are needed: the query
        goes through the keys' weights instead, and the tokens' mean through the values'. A bias of
        the keys adds the same to all scores of a softmax and drops out.
        """
        attention = self._block.attn
        tokens = tokens.float()
        if self._prompts is not None:
            tokens = self._prompts.among(tokens)
        tokens = self._block.norm1(tokens)
        heads = (attention.num_heads, attention.head_dim)
        weight = attention.qkv.weight.unflatten(0, (3, *heads))
        bias = torch.zeros_like(weight[..., 0])
        if attention.qkv.bias is not None:
            bias = attention.qkv.bias.unflatten(0, (3, *heads))
        query = torch.einsum("nd,hed->nhe", tokens[:, 0], weight[0]) + bias[0]
        query = attention.q_norm(query) * attention.scale
        if isinstance(attention.k_norm, nn.Identity):
            scores = torch.einsum("nhe,hed->nhd", query, weight[1]) @ tokens.mT
        else:
            keys = torch.einsum("ntd,hed->nhte", tokens, weight[1]) + bias[1][:, None]
            scores = (attention.k_norm(keys) @ query[..., None])[..., 0]
        mean = scores.softmax(-1) @ tokens
        attended = torch.einsum("nhd,hed->nhe", mean, weight[2]) + bias[2]
        attended = attention.norm(attended.flatten(1))
        if attention.gate is not None:
            attended = attended * attention.gate(tokens[:, 0]).sigmoid()
        return attended

    def tail(
        self, residual: Float[Tensor, "b v d"], output: Float[Tensor, "b v d"]
    ) -> Float[Tensor, "b v e"]:
        """Finish the last block, the final norm and the head for class tokens alone."""
        block = self._block
        token = residual + block.ls1(output)
        token = token + block.ls2(block.mlp(block.norm2(token)))
        token = self._model.norm(token.flatten(0, 1)[:, None])
        embeddings: Tensor = self._model.forward_head(token)
        return embeddings.unflatten(0, residual.shape[:2])

    def patches(self, tokens: Float[Tensor, "n t d"], inputs: Inputs) -> TokenGrid:
        """Return all patch tokens after the final norm, by the last block in the trunk's dtype."""
        tokens = self._model.norm(self._patch_block(tokens).float())
        return TokenGrid(self._to_grid(tokens))
