"""The text side of an open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fungistore.fingerprint import Config

TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class OpenClipTexts:
    """Texts into the joint space, as open_clip's `encode_text` and its own tokenizer have them.

    Attributes:
        name: the family and the architecture.
        model: open_clip's, with the text side at least.
        tokenizer: open_clip's for it: texts to token numbers [n, length].
        weights_hash: digest of all weights but the image side's.
        device: where the model is.
    """

    name: str
    model: Any
    tokenizer: Any
    weights_hash: str
    device: str = "cpu"

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return int(self.encode([""]).shape[1])

    def on(self, device: torch.device) -> OpenClipTexts:
        """Move the model, and return the tower that knows it."""
        return replace(self, model=self.model.to(device), device=str(device))

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """Return the embeddings of some texts, not normalised."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                tokens = self.tokenizer(list(texts[start : start + TEXTS_AT_ONCE]))
                parts.append(self.model.encode_text(tokens.to(self.device)).float())
        return torch.cat(parts)

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many texts leave no room for the padding of even one token, and so are cut.

        One that fits exactly counts, too: what a tokenizer drops it does not tell.
        """
        return int((self.tokenizer(list(texts))[:, -1] != 0).sum()) if texts else 0

    def identity(self) -> Config:
        """Return model and weights."""
        return {"model": self.name, "weights": self.weights_hash}
