"""The heads that weights carry: from tokens to the pieces of a vocabulary."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from fungistore.backbones.encoder import Encoder
from fungistore.backbones.timm_vit.weights import digest_weights

# What a model was trained with to tell masked words, or its word embeddings read the other way.
Carried = Literal["weights", "embeddings"]
_ATTRIBUTES: dict[Carried, str] = {"weights": "word_head", "embeddings": "word_embeddings"}


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


def carried_head(encoder: Encoder, which: Carried) -> WordHead | None:
    """Return a head of words of an encoder's weights, if it has one.

    It is an attribute of the encoder, `word_head` or `word_embeddings`.

    Raises:
        UsageError: it has one of which something is missing.
    """
    head: WordHead | None = getattr(encoder, _ATTRIBUTES[which], None)
    return head
