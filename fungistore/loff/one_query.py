"""Attention of one query a sample, without keys and values of all tokens as timm's layers have.

The query goes through the keys' weights instead, and the mean of the tokens through the values'.
What is left of the cost of keys and values is a product with as many columns as there are heads.
The keys' bias adds the same to all scores of a head, which the softmax takes away again. Parameters
are timm's, and so are results, within rounding.
"""

from __future__ import annotations

from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional


class OneQueryPool(AttentionPoolLatent):  # type: ignore[misc]  # timm is not typed
    """timm's `AttentionPoolLatent` of one learned query."""

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Return the pooled token."""
        keys, values = self.kv.weight.view(2, self.num_heads, self.head_dim, -1)
        query = self.q(self.latent).view(1, self.num_heads, self.head_dim) * self.scale
        pooled = self.proj(_attended(query, keys, values, x) + self.kv.bias.chunk(2)[1])
        return pooled + self.mlp(self.norm(pooled))


class ClassTokenBlock(Block):  # type: ignore[misc]  # timm is not typed
    """timm's `Block`, of the first token alone: all that is read of a last block."""

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
        """Return the first token."""
        attention, tokens = self.attn, self.norm1(x)
        queries, keys, values = attention.qkv.weight.view(3, -1, tokens.shape[-1])
        query_bias, _, value_bias = attention.qkv.bias.chunk(3)
        heads = (attention.num_heads, attention.head_dim)
        query = functional.linear(tokens[:, 0], queries, query_bias).unflatten(1, heads)
        keys, values = keys.unflatten(0, heads), values.unflatten(0, heads)
        pooled = _attended(query * attention.scale, keys, values, tokens) + value_bias
        first = x[:, :1] + self.drop_path1(self.ls1(attention.proj(pooled)[:, None]))
        return first + self.drop_path2(self.ls2(self.mlp(self.norm2(first))))


def _attended(
    query: Float[Tensor, "_ h e"],
    keys: Float[Tensor, "h e d"],
    values: Float[Tensor, "h e d"],
    tokens: Float[Tensor, "b n d"],
) -> Float[Tensor, "b i"]:
    """Return the heads' outputs side by side, of one scaled query for each sample or for all."""
    asked = (query.transpose(0, 1) @ keys).transpose(0, 1)  # [b or 1, heads, d]
    scores = tokens @ asked.transpose(1, 2)  # [b, n, heads]
    mixed = scores.softmax(dim=1).transpose(1, 2).to(tokens.dtype) @ tokens  # [b, heads, d]
    return (mixed.transpose(0, 1) @ values.transpose(1, 2)).transpose(0, 1).flatten(1)
