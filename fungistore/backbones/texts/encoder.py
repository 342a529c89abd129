"""A text encoder of transformers: pieces in, an embedding and tokens out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from fungistore.backbones.encoder import ClassTokenSplit, Encoded, TokenGrid
from fungistore.backbones.texts.pieces import TokenizerPieces
from fungistore.backbones.texts.pooling import pooled
from fungistore.backbones.texts.splits import LIKE_BERT, LIKE_T5, split_of, visible
from fungistore.errors import UsageError
from fungistore.fingerprint import Config
from fungistore.machine.compiling import compile_for_shapes
from fungistore.modalities.text.recipes import TextViews
from fungistore.modalities.views import Inputs, ViewRecipe
from fungistore.quantities import counted

# What transformers' models make their masks of.
MASKS, SLIDING_MASKS = "create_bidirectional_mask", "create_bidirectional_sliding_window_mask"
IN_FLOAT32 = "the model computes in float32 throughout: its trunk is not known to --dtype"


@dataclass(eq=False, kw_only=True)
class TextEncoder:
    """A frozen encoder and its tokenizer; make one with `load_text_encoder`.

    Attributes:
        name: its name in the family.
        module: in evaluation mode.
        pieces: its tokenizer.
        pooling: "class" or "mean".
        target_layer: the layer whose per-sample gradient is taken; None: none is.
        candidates: layers that may be differentiated, for who has to name one.
        weights_hash: digest of the weights.
        config_hash: digest of what else decides what the module computes.
        tokenizer_hash: digest of the tokenizer's files.
        embedding_dim: width of the embedding, and of a token.
        said: what the user should know of the model.
    """

    name: str
    module: Any
    pieces: TokenizerPieces
    pooling: str
    target_layer: str | None
    candidates: Sequence[str]
    weights_hash: str
    config_hash: str
    tokenizer_hash: str
    embedding_dim: int
    said: tuple[str, ...] = ()
    dtype: torch.dtype = field(default=torch.float32, init=False)

    family: ClassVar[str] = "text"
    modality: ClassVar[str] = "text"
    lengths_differ: ClassVar[bool] = True
    is_thread_safe: ClassVar[bool] = True

    @property
    def token_dim(self) -> int:
        """Width of a token."""
        return self.embedding_dim

    @property
    def token_shape(self) -> tuple[int]:
        """The greatest length in tokens."""
        return (self.pieces.max_length,)

    @property
    def target(self) -> nn.Linear | None:
        """The target layer itself."""
        if self.target_layer is None:
            return None
        layer: nn.Linear = self.module.get_submodule(self.target_layer)
        return layer

    @cached_property
    def base_view(self) -> ViewRecipe:
        """The text as it is."""
        return TextViews(self.pieces)

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
            "family": self.family,
            "model": type(self.module).__name__,
            "weights": self.weights_hash,
            "config": self.config_hash,
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
    def _blocks(self) -> nn.ModuleList | None:
        """The blocks that the target layer is in the last of; None where they are not known."""
        stack = getattr(self.module, "encoder", None) if self.is_plain else None
        blocks = getattr(stack, "layer", None) or getattr(stack, "block", None)
        return blocks if blocks is not None and self._holds(blocks[-1]) else None

    def _holds(self, block: nn.Module) -> bool:
        return self.target is None or any(one is self.target for one in block.modules())

    @property
    def exact_from(self) -> nn.Module | None:
        """The last block, where the blocks before it are the trunk."""
        return None if self._blocks is None else self._blocks[-1]

    def prepare_trunk(self, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Make the embeddings and all blocks but the last one fast, in place.

        Raises:
            UsageError: it is int8.
        """
        if dtype == torch.int8:
            raise UsageError(
                "texts have no trunk of eight bits",
                where=f"--dtype int8, --model {self.family}:{self.name}",
                expected="float32, bfloat16 or float16",
                hint="--dtype bfloat16 where the CPU or GPU multiplies it fast",
            )
        if self._blocks is None:
            return
        for name, child in self.module.named_children():
            if name != "encoder":
                child.to(dtype)
        embeddings = getattr(self.module.encoder, "embed_tokens", None)
        if embeddings is not None:
            embeddings.to(dtype)
        for block in self._blocks[:-1]:
            block.to(dtype)
            if compiled:
                compile_for_shapes(block)
        self.dtype = dtype

    def run(self, inputs: Inputs) -> Encoded:
        """Return the embeddings and tokens of ids and of which of them are real."""
        ids, real = inputs
        mask = visible(real) if self._takes_full_masks else real.long()
        tokens = self.module(input_ids=ids, attention_mask=mask).last_hidden_state
        return Encoded(pooled(tokens, real, self.pooling), TokenGrid(tokens, real))

    def class_token_split(self) -> ClassTokenSplit | None:
        """Return the model cut at its last attention, where the first token alone is pooled."""
        return split_of(self.module, self.target) if self.pooling == "class" else None
