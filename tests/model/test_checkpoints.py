"""Weights files as training code and model hubs leave them: the encoder of each is found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fungistore.backbones.checkpoints import encoder_of, read_checkpoint
from fungistore.backbones.families import feature_set_of, load_backbone, split_model
from fungistore.backbones.names import canonical
from fungistore.errors import UsageError
from tiny_world import TINY

State = dict[str, Tensor]
WeightsFile = Callable[[str], Path]
JUNK = torch.zeros(3)
HEADS = {"dino_head.last_layer.weight_v": JUNK, "ibot_head.mlp.0.weight": JUNK}


def named(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return a state with something before each name."""
    return {prefix + name: value for name, value in state.items()}


def other(state: Mapping[str, Tensor]) -> State:
    """Return another encoder of the same names."""
    return {name: value + 1 for name, value in state.items()}


def chunked(state: Mapping[str, Tensor]) -> State:
    """Return names as DINOv2 has them, which trains blocks in chunks of two."""
    found = {}
    for name, value in state.items():
        number = name.split(".")[1] if name.startswith("blocks.") else ""
        cut = f"blocks.{number}."
        found[name.replace(cut, f"blocks.{int(number) // 2}.{number}.") if number else name] = value
    return found


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "DataParallel": lambda s: {"state_dict": named(s, "module.")},
    "torch.compile": lambda s: named(s, "_orig_mod."),
    "DINO": lambda s: {
        "student": named(other(s), "module.backbone."),
        "teacher": named(s, "backbone.") | named(HEADS, "head."),
        "optimizer": {"state": {0: {"exp_avg": JUNK}}},
        "args": argparse.Namespace(arch="vit_small"),
        "epoch": 3,
    },
    "DINOv2": lambda s: {"teacher": named(chunked(s), "backbone.") | HEADS},
    "DINOv2 in one table": lambda s: {
        "model": named(chunked(s), "teacher.backbone.")
        | named(chunked(other(s)), "student.backbone.")
        | named(HEADS, "teacher.")
    },
    "MoCo v3": lambda s: {
        "state_dict": named(s, "module.base_encoder.")
        | {"module.base_encoder.head.0.weight": JUNK, "module.predictor.0.weight": JUNK}
        | named(other(s), "module.momentum_encoder.")
    },
    "MAE": lambda s: {
        "model": s | {"mask_token": JUNK, "decoder_embed.weight": JUNK, "decoder_blocks.0.x": JUNK}
    },
    "moving average": lambda s: {"state_dict": other(s), "state_dict_ema": s},
    "Lightning": lambda s: {
        "state_dict": named(s, "model.encoder.") | {"model.head.weight": JUNK, "criterion.w": JUNK},
        "hyper_parameters": {"lr": 0.1},
    },
    "FSDP": lambda s: {"teacher": named(s, "backbone._fsdp_wrapped_module.")},
}


@pytest.fixture(scope="module")
def state(weights_file: WeightsFile) -> State:
    """The tiny model's tensors, without a classifier."""
    found = load_file(weights_file(TINY))
    return {name: value for name, value in found.items() if not name.startswith("head.")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_encoder_of_a_checkpoint_is_found(layout: str, state: State, tmp_path: Path) -> None:
    """The very tensors, under their own names, from a file on the disk."""
    torch.save(LAYOUTS[layout](dict(state)), tmp_path / "w.pth")
    found = read_checkpoint(tmp_path / "w.pth").tensors
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_what_is_taken_and_left_out_is_said(state: State, tmp_path: Path) -> None:
    """By the encoder's remarks; and the weights are those of the plain file."""
    torch.save(LAYOUTS["DINO"](dict(state)), tmp_path / "dino.pth")
    save_file(state, tmp_path / "plain.safetensors")
    encoder = load_backbone(TINY, weights=tmp_path / "dino.pth")
    said = " ".join(encoder.remarks)  # type: ignore[attr-defined]
    assert "teacher, beside student" in said
    assert "left out: head" in said
    plain = load_backbone(TINY, weights=tmp_path / "plain.safetensors")
    assert encoder.weights_hash == plain.weights_hash


def test_weights_in_several_files_are_read_by_their_index(state: State, tmp_path: Path) -> None:
    """And an index leads to no file elsewhere."""
    names = list(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    where = {name: file for file, own in parts.items() for name in own}
    index.write_text(json.dumps({"weight_map": where}))
    assert read_checkpoint(index).tensors.keys() == state.keys()
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(UsageError, match="no file beside the index"):
        read_checkpoint(index)


class Anything:
    """What a pickle may hold, and no weights file should."""


def test_code_is_not_unpickled(tmp_path: Path) -> None:
    """The error names what it is, and a way out."""
    torch.save({"model": {"a": JUNK}, "config": Anything()}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"pickles a .*Anything") as refused:
        read_checkpoint(tmp_path / "w.pth")
    assert "convert it" in str(refused.value.hint)


def hugging_face(state: Mapping[str, Tensor], root: str) -> State:
    """Spell the tensors of timm's ViT as transformers' ViTModel does."""
    found = {}
    for name, value in state.items():
        new = name.replace("pos_embed", "embeddings.position_embeddings")
        new = new.replace("cls_token", "embeddings.cls_token")
        new = new.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        new = new.replace("blocks.", "encoder.layer.").replace("mlp.fc1", "intermediate.dense")
        new = new.replace("mlp.fc2", "output.dense").replace("attn.proj", "attention.output.dense")
        new = new.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        new = "layernorm" + new[4:] if new.startswith("norm.") else new
        if "attn.qkv" not in new:
            found[root + new] = value
            continue
        for part, one in zip(("query", "key", "value"), value.chunk(3), strict=True):
            found[root + new.replace("attn.qkv", f"attention.attention.{part}")] = one
    return found


@pytest.mark.parametrize("root", ["", "vit.", "deit."])
def test_weights_of_transformers_are_read(state: State, root: str) -> None:
    """Queries, keys and values are put together; with or without a name before all."""
    wanted = {k: v for k, v in state.items() if "ls1" not in k and "ls2" not in k}
    found = encoder_of(hugging_face(wanted, root) | {"classifier.weight": JUNK}).tensors
    assert found.keys() - {"head.weight"} == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("timm/vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m"),
        ("hf-hub:timm/vit_base_patch16_224.dino", "vit_base_patch16_224.dino"),
        ("hf_hub:MahmoodLab/UNI", "hf-hub:MahmoodLab/UNI"),
        ("https://huggingface.co/facebook/dinov2-small", "vit_small_patch14_dinov2.lvd142m"),
        ("https://huggingface.co/bioptimus/H-optimus-0/tree/main", "hf-hub:bioptimus/H-optimus-0"),
        ("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m"),
        ("facebook/DINOv2-small", "vit_small_patch14_dinov2.lvd142m"),
        ("ViT-B/32", "vit_base_patch32_clip_224.openai"),
        ("resnet50", "resnet50"),
    ],
)
def test_names_of_model_pages_are_known(name: str, here: str) -> None:
    """Whatever they look like, the feature set's name is a plain one."""
    assert canonical(name) == here
    assert split_model(name) == ("timm", here)
    assert "/" not in feature_set_of(name)
    assert ":" not in feature_set_of(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("google/vit-base-patch16-224", "vit_base_patch16_224.orig_in21k_ft_in1k"),
        ("someone/model", "hf-hub:someone/model"),
        ("vit_b_16", "torchvision:vit_b_16"),
    ],
)
def test_names_that_may_be_another_are_answered_with_it(name: str, hint: str) -> None:
    """Since its weights may be others."""
    with pytest.raises(UsageError) as refused:
        load_backbone(name)
    assert hint in str(refused.value.hint)


def test_a_folder_of_timms_is_a_model(state: State, tmp_path: Path) -> None:
    """By its config.json: architecture and transform; without one it says what is missing."""
    config = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 160, 160]}
    document = {"architecture": TINY, "num_classes": 0, "pretrained_cfg": config | {"tag": "x"}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    save_file(state, tmp_path / "model.safetensors")
    encoder: Any = load_backbone(f"local-dir:{tmp_path}")
    assert encoder.statistics[0] == (0.1, 0.2, 0.3)
    save_file(state, tmp_path / "plain.safetensors")
    plain = load_backbone(TINY, weights=tmp_path / "plain.safetensors")
    assert encoder.weights_hash == plain.weights_hash
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no model of timm's"):
        load_backbone(f"local-dir:{tmp_path}")
