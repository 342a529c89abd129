"""The heads of masked language models, read from weights under the names of transformers.

All of them are a linear layer, an activation, a norm, and a linear layer of the vocabulary's size,
whose weight is mostly that of the word embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fungistore.backbones.word_head import WordHead
from fungistore.errors import UsageError

WEIGHTS, SHARDS = "model.safetensors", "model-*.safetensors"
_OLD = {"weight": "gamma", "bias": "beta"}  # of norms, in weights that were TensorFlow's


@dataclass(frozen=True)
class _Names:
    """What a kind of head is called.

    Attributes:
        dense: its first layer.
        norm: what comes behind the activation.
        decoder: its last layer.
        bias: of that; who has it, has such a head.
        activation: the setting of config.json that says which, or its name.
        eps: the setting that says what the norm adds, or that number.
        may_lack: biases that some have not.
    """

    dense: str
    norm: str
    decoder: str
    bias: str
    activation: str = "gelu"
    eps: str | float = "layer_norm_eps"
    may_lack: tuple[str, ...] = ()


HEADS = (
    _Names(  # BERT, DeBERTa
        *("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
        *("cls.predictions.decoder", "cls.predictions.bias"),
        activation="hidden_act",
    ),
    # RoBERTa, XLM-R, CamemBERT, MPNet
    _Names("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    _Names(  # ELECTRA's generator
        *("generator_predictions.dense", "generator_predictions.LayerNorm"),
        *("generator_lm_head", "generator_lm_head.bias"),
    ),
    _Names(  # DistilBERT
        *("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
        activation="activation",
        eps=1e-12,
    ),
    _Names(  # ModernBERT
        *("head.dense", "head.norm", "decoder", "decoder.bias"),
        activation="classifier_activation",
        eps="norm_eps",
        may_lack=("head.dense.bias", "head.norm.bias"),
    ),
)


def read_word_head(folder: Path, model: Any) -> WordHead | None:
    """Return the head of words among a directory's weights, float32; None where there is none.

    Args:
        folder: the directory.
        model: of it, in float32 as yet; the head may share its word embeddings.

    Raises:
        UsageError: parts of the head are missing, or do not fit the model.
    """
    from transformers.activations import ACT2FN

    places = _places(folder)
    names = next((one for one in HEADS if one.bias in places), None)
    if names is None:
        return None
    stored = _Stored(folder, places, names.may_lack)
    config, table = model.config, model.get_input_embeddings().weight.detach()
    inner = table.shape[1]  # as wide as a token, but of factored embeddings
    eps = getattr(config, names.eps) if isinstance(names.eps, str) else names.eps
    dense = nn.Linear(config.hidden_size, inner, device="meta")
    norm = nn.LayerNorm(inner, eps=eps, device="meta")
    for layer, name in ((dense, names.dense), (norm, names.norm)):
        for kind in ("weight", "bias"):
            shape = tuple(getattr(layer, kind).shape)
            setattr(layer, kind, nn.Parameter(stored.take(f"{name}.{kind}", shape)))
    own = f"{names.decoder}.weight"
    is_tied = own not in places and getattr(config, "tie_word_embeddings", True)
    weight = table if is_tied else stored.take(own, tuple(table.shape))
    activation = ACT2FN[getattr(config, names.activation, names.activation)]
    return WordHead(
        nn.Sequential(dense, activation, norm), weight, stored.take(names.bias, (len(table),))
    )


def embeddings_as_head(model: Any) -> WordHead | None:
    """Return the word embeddings of a model, in float32 as yet, as a head without a bias.

    None where they are not as wide as a token.
    """
    table = model.get_input_embeddings().weight.detach()
    if table.shape[1] != model.config.hidden_size:
        return None
    return WordHead(nn.Identity(), table, torch.zeros(len(table)))


@dataclass(frozen=True)
class _Stored:
    """A directory's weights by their names."""

    folder: Path
    places: Mapping[str, Path]
    may_lack: tuple[str, ...]

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a weight, float32.

        Raises:
            UsageError: it is not there, or of another shape.
        """
        stem, _, kind = name.rpartition(".")
        key = next((one for one in (name, f"{stem}.{_OLD.get(kind)}") if one in self.places), None)
        if key is None and name in self.may_lack:
            return torch.zeros(shape)
        found = None
        if key is not None:
            with safe_open(self.places[key], "pt") as file:
                found = file.get_tensor(key).float()
        if found is None or tuple(found.shape) != shape:
            raise UsageError(
                "the head of words among the weights is not whole",
                where=self.folder,
                expected=f"{name} of shape {list(shape)}",
                found="nothing" if found is None else f"shape {list(found.shape)}",
                hint="download the model again; or --set mlm.head=random",
            )
        return found


def _places(folder: Path) -> dict[str, Path]:
    """Return the file that each weight of a directory is in."""
    single = folder / WEIGHTS
    places: dict[str, Path] = {}
    for path in [single] if single.is_file() else sorted(folder.glob(SHARDS)):
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    return places
