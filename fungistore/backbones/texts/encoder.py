"""A text encoder of transformers: pieces in, an embedding and tokens out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from torch import nn

from fungistore.backbones.encoder import ClassTokenSplit, Encoded, TokenGrid
from fungistore.backbones.texts.pieces import TokenizerPieces
from fungistore.backbones.texts.pooling import pooled
from fungistore.backbones.texts.splits import LIKE_BERT, LIKE_T5, split_of, visible
from fungistore.backbones.texts.word_heads import embeddings_as_head, read_word_head
from fungistore.backbones.transformers_encoder import TransformersEncoder
from fungistore.backbones.word_head import WordHead
from fungistore.fingerprint import Config
from fungistore.modalities.text.recipes import TextViews
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted

# What transformers' models make their masks of.
MASKS, SLIDING_MASKS = "create_bidirectional_mask", "create_bidirectional_sliding_window_mask"
IN_FLOAT32 = "the model computes in float32 throughout: its trunk is not known to --dtype"


@dataclass(eq=False, kw_only=True)
class TextEncoder(TransformersEncoder):
    """A frozen encoder and its tokenizer; make one with `load_text_encoder`.

    Attributes:
        pieces: its tokenizer.
        pooling: "class" or "mean".
        tokenizer_hash: digest of the tokenizer's files.
        folder: where the model is.
    """

    pieces: TokenizerPieces
    pooling: str
    tokenizer_hash: str
    folder: Path

    family: ClassVar[str] = "text"
    modality: ClassVar[str] = "text"
    items: ClassVar[str] = "texts"
    lengths_differ: ClassVar[bool] = True

    @property
    def token_shape(self) -> tuple[int]:
        """The greatest length in tokens."""
        return (self.pieces.max_length,)

    @cached_property
    def base_view(self) -> ViewRecipe:
        """The text as it is."""
        return TextViews(self.pieces)

    @cached_property
    def word_head(self) -> WordHead | None:
        """The head of words that the weights carry; first asked for before `prepare_trunk`.

        Raises:
            UsageError: it is not whole.
        """
        return read_word_head(self.folder, self.module)

    @cached_property
    def word_embeddings(self) -> WordHead | None:
        """The word embeddings as a head of tokens that are as wide; also asked for before."""
        return embeddings_as_head(self.module)

    @property
    def remarks(self) -> tuple[str, ...]:
        """How texts become embeddings, in words."""
        first = "the class token, or first piece" if self.pooling == "class" else "the tokens' mean"
        prompt = f", {self.pieces.prompt!r} before each text" if self.pieces.prompt else ""
        longest = counted(self.pieces.max_length, "token")
        own = () if self.is_plain else (IN_FLOAT32,)
        return (f"the embedding is {first}, of at most {longest}{prompt}", *own, *self.said)

    def identity(self) -> Config:
        """Return model, weights, tokenizer and pooling."""
        return {
            **self.of_the_model(),
            "tokenizer": self.tokenizer_hash,
            "max_length": self.pieces.max_length,
            "pooling": self.pooling,
        } | ({"prompt": self.pieces.prompt} if self.pieces.prompt else {})

    def count_tokens(self, inputs: Inputs) -> int:
        """Return the number of tokens of one view, padding included."""
        return inputs[0].shape[-1]

    @property
    def is_plain(self) -> bool:
        """Whether the model is embeddings, blocks in line, and a norm at most."""
        return type(self.module).__name__ in (*LIKE_BERT, *LIKE_T5)

    @cached_property
    def _takes_full_masks(self) -> bool:
        """Whether the model needs a mask in full, and leaves it as it is; see `visible`.

        What computes attention step by step adds zeros for a mask that it leaves out.
        """
        code = vars(sys.modules[type(self.module).__module__])
        has_kernels = self.module.config._attn_implementation != "eager"
        return has_kernels and MASKS in code and SLIDING_MASKS not in code

    @property
    def blocks(self) -> nn.ModuleList | None:
        """The blocks of a plain model."""
        stack = getattr(self.module, "encoder", None) if self.is_plain else None
        return getattr(stack, "layer", None) or getattr(stack, "block", None)

    @property
    def before_blocks(self) -> list[nn.Module]:
        """The embeddings, where a model has them, and what projects them."""
        parts = [child for name, child in self.module.named_children() if name != "encoder"]
        embeddings = getattr(self.module.encoder, "embed_tokens", None)
        return parts if embeddings is None else [*parts, embeddings]

    def run(self, inputs: Inputs) -> Encoded:
        """Return the embeddings and tokens of ids and of which of them are real."""
        ids, real = inputs
        mask = visible(real) if self._takes_full_masks else real.long()
        tokens = self.module(input_ids=ids, attention_mask=mask).last_hidden_state
        return Encoded(pooled(tokens, real, self.pooling), TokenGrid(tokens, real))

    def class_token_split(self) -> ClassTokenSplit | None:
        """Return the model cut at its last attention, where the first token alone is pooled."""
        return split_of(self.module, self.target) if self.pooling == "class" else None
