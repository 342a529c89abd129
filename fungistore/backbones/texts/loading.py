"""From a directory of transformers to a frozen text encoder: strict, and without anybody's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fungistore.backbones.target_layers import differentiable, refuse_other_layer
from fungistore.backbones.texts.encoder import TextEncoder
from fungistore.backbones.texts.pieces import digest_of_files, open_pieces, own_length
from fungistore.backbones.texts.pooling import card_of, prompt_of
from fungistore.backbones.texts.probing import refuse_odd_words, refuse_padding
from fungistore.backbones.timm_vit.weights import digest_weights
from fungistore.backbones.transformers_folders import called, model_folder
from fungistore.backbones.transformers_loading import (
    SAFE,
    digest_of_config,
    load_strictly,
    read_config,
)
from fungistore.errors import UsageError

FAMILY = "text"
USUAL_LENGTH = 512  # of models whose positions are relative, and whose tokenizer names no length
# The attention's output projection, in the names of transformers' models (FUNGI, section 4.3): the
# first of them that a model has.
PROJECTIONS = (
    *("attention.output.dense", "SelfAttention.o", "attention.out_lin", "attention.attn.o"),
    *("attn.Wo", "attn.out_proj", "self_attn.out_proj", "attention.dense", "self_attn.o_proj"),
)


def load_text_encoder(
    name: str,
    *,
    target_layer: str | None = None,
    pooling: str | None = None,
    max_length: int | None = None,
    prompt: str | None = None,
) -> TextEncoder:
    """Return the encoder of a directory, or of the model hub.

    Args:
        name: a directory, or a name on the hub.
        target_layer: dotted name of a linear layer; default: the last attention's output
            projection.
        pooling: "class" or "mean"; default: the card's, or the class token.
        max_length: tokens of a text, special ones included; default: what the model takes.
        prompt: goes before each text; default: the card's.

    Raises:
        UsageError: the model is no text encoder, or a setting is not for it.
        FungiError: it could not be had.
    """
    folder = model_folder(name, FAMILY)
    model, left_out = _loaded(folder, name)
    of_card, modules = card_of(folder) if pooling is None else (pooling, ())
    longest = _positions(model)
    own = min(own_length(folder) or longest or USUAL_LENGTH, longest or 1 << 30)
    if max_length is not None and longest is not None and max_length > longest:
        raise UsageError(
            "the model has no positions for texts of this length",
            where=f"--max-length {max_length}",
            expected=f"at most {longest}",
        )
    said = [f"left out: {', '.join(left_out)}"] if left_out else []
    said += [f"warning: left out, though the card has it: {kind}" for kind in modules]
    candidates = differentiable(model)
    if target_layer is not None:
        refuse_other_layer(model, target_layer)
    encoder = TextEncoder(
        name=called(name),
        module=model,
        pieces=open_pieces(
            folder,
            SAFE,
            own if max_length is None else max_length,
            prompt_of(folder) if prompt is None else prompt,
        ),
        pooling=of_card or "class",
        target_layer=target_layer or _last_projection(candidates),
        candidates=candidates,
        weights_hash=digest_weights(model.state_dict()),
        config_hash=digest_of_config(folder),
        tokenizer_hash=digest_of_files(folder),
        folder=folder,
        said=tuple(said),
    )
    refuse_odd_words(encoder, folder)
    if not encoder.is_plain:
        refuse_padding(encoder, f"{FAMILY}:{name}")
    return encoder


def _loaded(folder: Path, name: str) -> tuple[Any, list[str]]:
    """Return the model of a directory, and the weights that it has no place for."""
    from transformers import AutoModel, AutoModelForTextEncoding

    config = read_config(folder, f"{FAMILY}:{name}")
    kind: Any = AutoModelForTextEncoding if _encodes_texts(config, name) else AutoModel
    model, left_out = load_strictly(kind, folder, config, f"{FAMILY}:{name}", _is_of_pooler)
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # pooling is ours; its weights are none of the embedding's
    return model, left_out


def _encodes_texts(config: Any, name: str) -> bool:
    """Whether transformers knows a config's model as a text encoder; others may yet be one.

    What fills masked words in sees both sides of them, though it may be made to generate, too.

    Raises:
        UsageError: it takes no texts, or generates them.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    is_encoder = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    generates = (
        type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    ) or config.is_encoder_decoder
    is_causal = getattr(config, "is_decoder", False)
    if not getattr(config, "vocab_size", None) or (generates and not is_encoder) or is_causal:
        raise UsageError(
            "the model is no text encoder",
            where=f"--model {FAMILY}:{name}",
            expected="an encoder of texts, such as BERT, MiniLM, MPNet, E5, BGE, DeBERTa or T5",
            found=config.model_type + (" with is_decoder" if is_causal else ""),
        )
    return is_encoder


def _is_of_pooler(key: str) -> bool:
    return key.startswith("pooler.") or ".pooler." in key or key.endswith("position_ids")


def _positions(model: Any) -> int | None:
    """Return how many tokens the position embeddings reach, None where they are relative."""
    embeddings = getattr(model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    first = getattr(embeddings, "padding_idx", None)  # RoBERTa's places begin behind padding's
    return int(table.num_embeddings - (0 if first is None else first + 1))


def _last_projection(candidates: list[str]) -> str | None:
    for ending in PROJECTIONS:
        if found := [name for name in candidates if name.endswith(ending)]:
            return found[-1]
    return None
