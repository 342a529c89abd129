"""The published checkpoints of SSAST, as transformers' AST.

They are trained on patches side by side; their own evaluation, and FUNGI's, lets patches overlap.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from fungistore.backbones.audio.ast import encoder_of
from fungistore.backbones.audio.family import FAMILY, SSAST, AudioSettings
from fungistore.backbones.audio.positions import Grid
from fungistore.backbones.audio.spectrograms import PREFIX, SpectrogramEncoder
from fungistore.backbones.checkpoints import read_checkpoint
from fungistore.backbones.timm_vit.weights import digest_weights
from fungistore.backbones.transformers_loading import load_strictly
from fungistore.errors import UsageError
from fungistore.fingerprint import digest_bytes
from fungistore.modalities.audio.filterbank import FilterBank

BLOCKS = 12
HEAD = 64  # numbers of a token that one head of the attention sees
# A patch and the way to the next one, by what is in a checkpoint's name.
PATCHES_OF: Mapping[str, tuple[Grid, Grid]] = MappingProxyType(
    {"patch": ((16, 16), (10, 10)), "frame": ((128, 2), (128, 1))}
)
AUDIOSET = (-4.2677393, 4.5689974)  # mean and deviation of what they are trained on

POSITIONS, PATCHES = "v.pos_embed", "v.patch_embed.proj."
ENCODER = "v."
HEADS = ("v.head.", "v.head_dist.")  # which training does not use
TRAINED = ("p_input_fdim", "p_input_tdim")  # bins and frames of training
_BLOCK = re.compile(r"^v\.blocks\.(1[01]|[0-9])\.(.+)\.(weight|bias)$")
_NAMES = {
    "v.cls_token": "embeddings.cls_token",
    "v.dist_token": "embeddings.distillation_token",
    "v.norm.weight": "layernorm.weight",
    "v.norm.bias": "layernorm.bias",
}
_PARTS = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


def load_ssast(file: Path | None, settings: AudioSettings) -> SpectrogramEncoder:
    """Return the encoder of a published checkpoint; settings' name says which one it is.

    Raises:
        UsageError: there is no file, it is of another model, or a setting is not for it.
    """
    from transformers import ASTConfig, ASTModel

    if file is None:
        raise UsageError(
            "SSAST's weights are a file that its authors publish",
            where=f"--model {FAMILY}:{settings.name}",
            expected="--weights FILE",
            hint="download it: the README of the repository YuanGongND/ssast links to all of them",
        )
    stored = read_checkpoint(file).tensors
    width = SSAST[settings.name]
    patch, stride = PATCHES_OF[settings.name.split("-")[2]]
    trained, bins, frames = _trained_on(stored, patch, width, file)
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": width // HEAD,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-6,
    }
    # transformers has square patches alone: it makes the smallest, and gets these afterwards
    config = ASTConfig(**sizes, patch_size=1, max_length=1, num_mel_bins=1)
    ours, used = _of_transformers(stored)
    model, unknown = load_strictly(
        ASTModel, file, config, f"{FAMILY}:{settings.name}", _is_of_patches, ours
    )
    model.embeddings.patch_embeddings.projection = _projection(stored, patch, stride)
    model.embeddings.position_embeddings = _frozen(stored[POSITIONS])
    used |= {POSITIONS, f"{PATCHES}weight", f"{PATCHES}bias"}
    beside = stored.keys() - used
    if odd := sorted(n for n in beside if n.startswith(ENCODER) and not n.startswith(HEADS)):
        raise UsageError(
            "the file has weights of the encoder that SSAST has no place for",
            where=f"--weights {file}",
            found=", ".join(odd[:3]),
            hint="it is of another architecture, or of a fine-tuned one",
        )
    left_out = {name.removeprefix(ENCODER).partition(".")[0] for name in beside}
    return encoder_of(
        model,
        settings,
        filter_bank=FilterBank(bins=bins),
        frames=settings.max_length or frames,
        statistics=settings.statistics or AUDIOSET,
        patch=patch,
        stride=stride,
        trained=trained,
        weights_hash=digest_weights({name: stored[name] for name in used}),
        config_hash=digest_bytes(json.dumps([sizes, patch, stride, trained]).encode()),
        left_out=sorted(left_out.difference(TRAINED).union(unknown)),
    )


def _trained_on(
    stored: Mapping[str, Tensor], patch: Grid, width: int, file: Path
) -> tuple[Grid, int, int]:
    """Return a checkpoint's grid, bins and frames.

    Raises:
        UsageError: it is none of SSAST's training, or of another model than its name says.
    """
    needed = (*TRAINED, POSITIONS, f"{PATCHES}weight", f"{PATCHES}bias")
    if lacking := [name for name in needed if name not in stored]:
        raise UsageError(
            "the file is no checkpoint of SSAST's training",
            where=f"--weights {file}",
            expected=", ".join(needed),
            found=f"no {', '.join(lacking)}",
            hint="a fine-tuned AST is a directory of transformers: --model audio:FOLDER",
        )
    sizes = [stored[name].tolist() for name in TRAINED]
    bins, frames = (
        int(size) if isinstance(size, int | float) and size > 0 else 0 for size in sizes
    )
    trained = (bins // patch[0], frames // patch[1])
    expected = {
        f"{PATCHES}weight": (width, 1, *patch),
        f"{PATCHES}bias": (width,),
        POSITIONS: (1, PREFIX + prod(trained), width),
    }
    found = {name: tuple(stored[name].shape) for name in expected}
    if not prod(trained) or found != expected:
        raise UsageError(
            "the file is of another SSAST than the model's name says",
            where=f"--weights {file}",
            expected=_listed(expected),
            found=_listed(found),
            hint=f"--model {FAMILY}:NAME with NAME {' or '.join(SSAST)}",
        )
    return trained, bins, frames


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _of_transformers(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """Return what transformers has a place for, under its names, and under which it was stored."""
    found, used = {}, set()
    for name, value in stored.items():
        block = _BLOCK.match(name)
        if block is not None and block[2] == "attn.qkv" and value.ndim and len(value) % 3 == 0:
            for part, one in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"encoder.layer.{block[1]}.attention.attention.{part}.{block[3]}"] = one
        elif block is not None and block[2] in _PARTS:
            found[f"encoder.layer.{block[1]}.{_PARTS[block[2]]}.{block[3]}"] = value
        elif name in _NAMES:
            found[_NAMES[name]] = value
        else:
            continue
        used.add(name)
    return found, used


def _is_of_patches(name: str) -> bool:
    return "position_embeddings" in name or "patch_embeddings" in name


def _projection(stored: Mapping[str, Tensor], patch: Grid, stride: Grid) -> nn.Conv2d:
    weight, bias = stored[f"{PATCHES}weight"], stored[f"{PATCHES}bias"]
    made = nn.Conv2d(1, len(bias), patch, stride, device="meta")
    made.weight, made.bias = _frozen(weight), _frozen(bias)
    return made


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float(), requires_grad=False)
