"""The fast path: class-token pooling and the last block's attention output projection.

After the last attention only the class token can reach the embedding, so a view's gradient is
rank one, b [a, 1]^T. The trunk therefore ends in two vectors a view: the attended class token
`a` that enters the projection, and the residual stream beside it. What follows touches one token,
runs in float32, and is all that autograd ever sees.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from fungistore.backbones.backbone import Backbone, prepare_trunk
from fungistore.gradients.batching import forward_size
from fungistore.gradients.tape import Tape, Views
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch


def takes_class_token_path(backbone: Backbone) -> bool:
    """Whether the model pools its class token and the target is its last block's `attn.proj`."""
    model = backbone.model
    if type(model) is not VisionTransformer or model.global_pool != "token":
        return False
    block = model.blocks[-1]
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and model.attn_pool is None
        and backbone.target is block.attn.proj
    )


class ClassTokenPath:
    """Gradients of the last `attn.proj` of a class-token model; takes the backbone over.

    Args:
        backbone: a model for which `takes_class_token_path` holds; its trunk is cast in place.
        dtype: the trunk's precision; what follows the target layer stays in float32.
        compiled: compile the trunk's blocks.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype, *, compiled: bool = False) -> None:
        self._model = backbone.model
        self._grid = backbone
        self._block: Any = self._model.blocks[-1]
        last = len(self._model.blocks) - 1
        self._dtype = prepare_trunk(backbone, last, dtype, compiled=compiled)
        self._patch_block = self._block
        if self._dtype != torch.float32:
            self._patch_block = copy.deepcopy(self._block).to(dtype)

    @property
    def gradient_shape(self) -> tuple[int, int]:
        """(out, in + 1), or (out, in) without a bias."""
        proj = self._block.attn.proj
        return proj.out_features, proj.in_features + (proj.bias is not None)

    def images_at_once(self, views: int, batch_size: int) -> int:
        """All of them: a view leaves only two vectors behind."""
        return batch_size

    def record(self, views: Views, *, patches: bool = False, watch: Stopwatch = UNWATCHED) -> Tape:
        """Run the trunk without autograd, chunk by chunk, then the tail on all views at once."""
        ends: list[Tensor] = []
        grids: list[Tensor] = []
        for chunk in views:
            with torch.no_grad(), watch.stage("trunk"):
                parts = []
                flat = chunk.flatten(0, 1)
                size = forward_size(chunk.device, chunk.shape[-1], self._grid.patch_size)
                for part in flat.split(size or len(flat)):
                    tokens = self._trunk(part)
                    parts.append(torch.cat([self._attend(tokens), tokens[:, 0].float()], dim=1))
                    if patches and not ends:
                        grids.append(self._patches(tokens))
                ends.append(torch.cat(parts).unflatten(0, chunk.shape[:2]))
        with watch.stage("tail"):
            proj = self._block.attn.proj
            entered, residual = torch.cat(ends, dim=1).tensor_split([proj.in_features], dim=2)
            output = proj(entered).detach().requires_grad_()
            embeddings = self._tail(residual, output)
        grid = torch.cat(grids) if grids else None
        return Tape(embeddings, (entered,), (output,), proj.bias is not None, grid)

    def _trunk(self, pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n t d"]:
        """Run everything before the last block."""
        model = self._model
        tokens = model._pos_embed(model.patch_embed(pixels.to(self._dtype)))
        tokens = model.norm_pre(model.patch_drop(tokens))
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        return tokens

    def _attend(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n i"]:
        """Return the last attention's output for the class token, in float32.

        One query meets all tokens, so neither keys nor values of all tokens are needed: the query
        goes through the keys' weights instead, and the tokens' mean through the values'. A bias of
        the keys adds the same to all scores of a softmax and drops out.
        """
        attention = self._block.attn
        tokens = self._block.norm1(tokens.float())
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

    def _tail(
        self, residual: Float[Tensor, "b v d"], output: Float[Tensor, "b v d"]
    ) -> Float[Tensor, "b v e"]:
        """Finish the last block, the final norm and the head for class tokens alone."""
        block = self._block
        token = residual + block.ls1(output)
        token = token + block.ls2(block.mlp(block.norm2(token)))
        token = self._model.norm(token.flatten(0, 1)[:, None])
        embeddings: Tensor = self._model.forward_head(token)
        return embeddings.unflatten(0, residual.shape[:2])

    def _patches(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n h w d"]:
        """Return all patch tokens after the final norm, by the last block in the trunk's dtype."""
        tokens = self._model.norm(self._patch_block(tokens).float())
        return self._grid.to_grid(tokens)
