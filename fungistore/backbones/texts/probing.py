"""What must hold of an encoder, asked of it on one short text before any is computed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fungistore.backbones.texts.encoder import TextEncoder
from fungistore.errors import UsageError
from fungistore.modalities.reading import reason_of
from fungistore.quantities import counted

_TEXT = "a short text"
_PADDING = 12  # tokens, more than the convolutions of published encoders reach
_TOLERANCE = 1e-3  # of the greatest number; float32 itself is a thousand times finer


def refuse_padding(encoder: TextEncoder, model: str) -> None:
    """Refuse an encoder whose embeddings depend on what a text is padded with.

    Convolutions and layers that mix neighbours, or all tokens, do so without asking a mask.

    Args:
        encoder: as it was loaded.
        model: what `--model` says, for errors.

    Raises:
        UsageError: they do, or the model cannot be given a text and a mask.
    """
    ids, _ = encoder.pieces(_TEXT)
    try:
        alone = _embedding(encoder, ids, len(ids))
        padded = _embedding(encoder, ids, min(len(ids) + _PADDING, encoder.pieces.max_length))
    except Exception as error:  # whatever a model raises that is made for other inputs
        raise UsageError(
            "the model cannot be given a text",
            where=f"--model {model}",
            expected="an encoder that takes ids and which of them are real",
            found=f"{type(error).__name__}: {reason_of(error)}",
            hint="choose an encoder such as BERT, MiniLM, MPNet, E5, BGE, DeBERTa or T5",
        ) from error
    away = (padded - alone).abs().max() / alone.abs().max()
    if away > _TOLERANCE:
        raise UsageError(
            "the model's embeddings depend on how far a text is padded",
            where=f"--model {model}",
            expected=f"the same of {counted(len(ids), 'token')}, alone and with {_PADDING} "
            "more to ignore",
            found=f"numbers that are {away:.2g} of the greatest apart",
            hint="choose an encoder whose attention alone mixes tokens, such as BERT or DeBERTa",
        )


def refuse_odd_words(encoder: TextEncoder, folder: Path) -> None:
    """Refuse a tokenizer that makes pieces which a model has no embeddings of.

    Args:
        encoder: as it was loaded.
        folder: its directory, for errors.

    Raises:
        UsageError: it does: it is another model's.
    """
    table = encoder.module.get_input_embeddings()
    last = max(encoder.pieces.tokenizer.get_vocab().values(), default=0)
    if isinstance(table, nn.Embedding) and last >= table.num_embeddings:
        raise UsageError(
            "the tokenizer has pieces that the model has no embeddings of",
            where=folder,
            expected=f"ids below {table.num_embeddings}",
            found=f"an id of {last}",
            hint="its tokenizer's files may be another model's: download all of them anew",
        )


@torch.no_grad()
def _embedding(encoder: TextEncoder, ids: list[int], length: int) -> Tensor:
    given = nn.functional.pad(
        torch.tensor([ids]), (0, length - len(ids)), value=encoder.pieces.padding
    )
    return encoder.run((given, torch.arange(length)[None] < len(ids))).embeddings
