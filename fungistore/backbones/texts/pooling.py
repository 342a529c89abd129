"""How a text's tokens become its embedding, as the model's card has it, or as the user does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from fungistore.backbones.transformers_folders import read_json
from fungistore.errors import UsageError

Pooling = Literal["class", "mean"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

# The files that a directory of sentence-transformers has beside the model's own.
MODULES, CARD, SETTINGS = "modules.json", "config.json", "config_sentence_transformers.json"
LENGTHS = "sentence_bert_config.json"
_MODE = "pooling_mode"
_OF_CARDS = {
    f"{_MODE}_cls_token": "class",
    f"{_MODE}_mean_tokens": "mean",
    "cls": "class",
    "mean": "mean",
}
_UNUSED = ("Normalize",)  # only the length of an embedding changes, which no score looks at


def pooled(
    tokens: Float[Tensor, "n t d"], real: Bool[Tensor, "n t"], pooling: str
) -> Float[Tensor, "n d"]:
    """Return the first token (the class token, or T5's first piece), or the real tokens' mean."""
    if pooling == "class":
        return tokens[:, 0]
    weights = real.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1)


def card_of(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    """Return the pooling that a directory's card names, if any, and modules that are left out.

    Raises:
        UsageError: the card names one that is not known.
    """
    pooling, left_out = None, []
    for module in read_json(folder, MODULES, list):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling_of(folder / str(module.get("path", "")))
        elif kind not in ("Transformer", *_UNUSED):
            left_out.append(kind)
    return pooling, tuple(left_out)


def _pooling_of(folder: Path) -> str:
    card = read_json(folder, CARD)
    modes = [name for name, is_on in card.items() if name.startswith(_MODE) and is_on is True]
    if isinstance(card.get(_MODE), str):  # of later cards
        modes = [card[_MODE]]
    pooling = _OF_CARDS.get(modes[0]) if len(modes) == 1 else None
    if pooling is None:
        raise UsageError(
            "the model's card pools tokens in a way that is not known here",
            where=folder / CARD,
            expected="the class token, or the mean",
            found=", ".join(modes) or "nothing",
            hint=f"--pooling {' or '.join(POOLINGS)}",
        )
    return pooling


def prompt_of(folder: Path) -> str:
    """Return what the card puts before each text; "" where it has nothing."""
    settings = read_json(folder, SETTINGS)
    default = settings.get("default_prompt_name")
    return str((settings.get("prompts") or {}).get(default, "")) if default else ""
