"""torch's fused attention with its output projection as a layer that runs, and can be hooked."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class UnfoldedAttention(nn.Module):
    """What an `nn.MultiheadAttention` does of self-attention, without a mask and batch first.

    torch hands the weights of the output projection to one fused function, so that nothing can be
    hooked to that layer. Here it runs as a layer of its own.

    Args:
        fused: whose parameters it shares.

    Attributes:
        out_proj: the output projection.
        published: what FUNGI's reference code takes for it; see `PublishedProjection`.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        if not fused.batch_first or not fused._qkv_same_embed_dim:
            raise ValueError("an attention of another kind")
        self.in_proj_weight, self.in_proj_bias = fused.in_proj_weight, fused.in_proj_bias
        self.num_heads = fused.num_heads
        self.out_proj = _sharing(nn.Linear, fused.out_proj)
        self.published: nn.Module | None = None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, **settings: Any
    ) -> tuple[Tensor, None]:
        """Return the attention's output [n, t, d] of tokens [n, t, d], three times the same."""
        qkv = nn.functional.linear(query, self.in_proj_weight, self.in_proj_bias)
        heads = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.published is None else self.published(query, output)), None

    def publish(self) -> PublishedProjection:
        """Let a `PublishedProjection` run behind the output projection, and return it."""
        layer: PublishedProjection = _sharing(PublishedProjection, self.out_proj)
        self.published = layer
        return layer


class PublishedProjection(nn.Linear):
    """The layer that FUNGI's reference code takes for a torchvision ViT's output projection.

    It hooks the whole attention, so what it multiplies with the gradient of the projection's output
    is what enters the attention, the normalised tokens, instead of what enters the projection. The
    paper's rows of DeiT are made so; it is no gradient of any weight. It passes outputs on.
    """

    def forward(self, entered: Tensor, output: Tensor) -> Tensor:  # type: ignore[override]
        """Return the output, so that a hook sees both."""
        return output


def _sharing(kind: Any, layer: nn.Linear) -> Any:
    """Return a layer of a kind with the parameters of another."""
    made = kind(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    made.weight, made.bias = layer.weight, layer.bias
    return made
