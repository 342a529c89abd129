"""The head that some weights carry: from tokens to the pieces of a vocabulary."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoder
from fungistore.backbones.timm_vit.weights import digest_weights


class WordHead(nn.Linear):
    """A frozen linear layer of the vocabulary's size, and the transform before it.

    Args:
        before: the transform of tokens, [..., d] to [..., h].
        weight: of the layer behind it.
        bias: the same.

    Attributes:
        digest: of its weights.
    """

    def __init__(
        self, before: nn.Module, weight: Float[Tensor, "p h"], bias: Float[Tensor, " p"]
    ) -> None:
        super().__init__(weight.shape[1], weight.shape[0], device="meta")
        self.before = before
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.requires_grad_(False)
        self.digest = digest_weights(self.state_dict())

    def forward(self, tokens: Float[Tensor, "... d"]) -> Float[Tensor, "... p"]:
        """Return the logits of each piece."""
        return super().forward(self.before(tokens))


def carried_head(encoder: Encoder) -> WordHead | None:
    """Return the head of words of an encoder's weights, its attribute `word_head`, if it has one.

    Raises:
        UsageError: it has one of which something is missing.
    """
    head: WordHead | None = getattr(encoder, "word_head", None)
    return head
