"""Attention of one learned query, without keys and values of all tokens as timm's layer has."""

from __future__ import annotations

from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from torch import Tensor


class OneQueryPool(AttentionPoolLatent):  # type: ignore[misc]  # timm is not typed
    """timm's `AttentionPoolLatent` of one query: its parameters and its result, within rounding.

    The query is the same for all tokens, so its product with the keys' weights is made once, and
    tokens are averaged before the values' weights are applied. What is left of the cost of keys and
    values is a product with as many columns as there are heads. The keys' bias adds the same to
    all scores of a head, which the softmax takes away again.
    """

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Return the pooled token."""
        keys, values = self.kv.weight.view(2, self.num_heads, self.head_dim, -1)
        query = self.q(self.latent).view(self.num_heads, 1, self.head_dim) * self.scale
        scores = x @ (query @ keys)[:, 0].T  # [b, n, heads]
        mixed = scores.softmax(dim=1).transpose(1, 2).to(x.dtype) @ x  # [b, heads, d]
        pooled = (mixed.transpose(0, 1) @ values.transpose(1, 2)).transpose(0, 1).flatten(1)
        pooled = self.proj(pooled + self.kv.bias.chunk(2)[1])
        return pooled + self.mlp(self.norm(pooled))
