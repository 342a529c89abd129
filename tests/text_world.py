"""Tiny random text encoders of transformers in directories, with a tokenizer of a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = [
    *("the", "a", "cat", "dog", "bird", "sat", "ran", "on", "mat", "roof", "red", "old", "new"),
    *("one", "two", "three", "and", "then", "it", "was"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WIDTH, BLOCKS, LONGEST = 32, 2, 48

_SHARED = {"vocab_size": len(SPECIAL) + len(WORDS), "pad_token_id": 0}
_BERT = _SHARED | {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": LONGEST,
}
_T5 = _SHARED | {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": BLOCKS, "num_heads": 4}

# each with the settings that make it small
KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "bert": (hf.BertConfig, hf.BertModel, _BERT),
    "roberta": (
        hf.RobertaConfig,
        hf.RobertaModel,
        _BERT | {"max_position_embeddings": LONGEST + 1, "type_vocab_size": 1},
    ),
    "t5": (hf.T5Config, hf.T5EncoderModel, _T5),
    "mt5": (hf.MT5Config, hf.MT5EncoderModel, _T5 | {"feed_forward_proj": "gated-gelu"}),
    "distilbert": (
        hf.DistilBertConfig,
        hf.DistilBertModel,
        _SHARED
        | {"dim": WIDTH, "n_layers": BLOCKS, "n_heads": 4, "hidden_dim": 48}
        | {"max_position_embeddings": LONGEST},
    ),
    # whose positions begin behind that of its own padding, 1
    "mpnet": (hf.MPNetConfig, hf.MPNetModel, _BERT | {"max_position_embeddings": LONGEST + 2}),
    "deberta-v2": (
        hf.DebertaV2Config,
        hf.DebertaV2Model,
        _BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "camembert": (
        hf.CamembertConfig,
        hf.CamembertModel,
        _BERT | {"max_position_embeddings": LONGEST + 1, "type_vocab_size": 1},
    ),
    "electra": (hf.ElectraConfig, hf.ElectraModel, _BERT | {"embedding_size": 16}),
    "modernbert": (
        hf.ModernBertConfig,
        hf.ModernBertModel,
        _BERT
        | {"num_hidden_layers": 3, "local_attention": 8}
        | dict.fromkeys(("bos_token_id", "cls_token_id"), 2)
        | dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
    ),
}
# whose convolutions, or neighbours' embeddings, reach into padding
OF_NEIGHBOURS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "convbert": (hf.ConvBertConfig, hf.ConvBertModel, _BERT | {"embedding_size": 16}),
    "mobilebert": (
        hf.MobileBertConfig,
        hf.MobileBertModel,
        _BERT | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
}


def tokenizer() -> Tokenizer:
    """Words between white space, with a class token before and another one behind."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def save_encoder(
    folder: Path, kind: str, seed: int = 0, *, words: bool = False, **more: Any
) -> Path:
    """Write a tiny model of a kind with its tokenizer into a folder; `words`: and its head."""
    config_of, model_of, settings = (KINDS | OF_NEIGHBOURS)[kind]
    if words:
        model_of = hf.AutoModelForMaskedLM.from_config
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_of(config_of(**settings | more))
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    said |= {"mask_token": "[MASK]", "unk_token": "[UNK]"}
    said |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(said | {"model_max_length": LONGEST}), encoding="utf-8"
    )
    return folder


def save_card(folder: Path, mode: str) -> None:
    """Write a card of sentence-transformers that pools in a way."""
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": i, "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"cls_token": False, "mean_tokens": False, "max_tokens": False} | {mode: True}
    card = {f"pooling_mode_{name}": is_on for name, is_on in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(card), encoding="utf-8")
