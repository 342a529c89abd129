"""Weights files of training code: which encoder of several is taken, and under which names.

Whatever a file holds beside its encoder, such as projection heads, decoders, optimisers and the
arguments of a run, is left out and said. Nothing is unpickled but tensors, plain containers, and
the arguments of argparse, which hold no code.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fungistore.backbones.transformers_layout import from_transformers, is_of_transformers
from fungistore.errors import UsageError

INDEX = ".safetensors.index.json"  # beside the parts of weights that are in several files
# Where training code keeps a network's tensors; the first that is there is taken. Published
# evaluations take the teacher of DINO, DINOv2 and iBOT, and the moving average where there is one.
NETWORKS = (
    *("teacher", "state_dict_ema", "model_ema", "ema_state_dict", "ema", "target_encoder"),
    *("state_dict", "model_state_dict", "model", "student", "encoder", "net", "network", "module"),
    *("online_encoder", "backbone"),
)
# What wrappers of PyTorch put into names, anywhere in them.
WRAPPINGS = re.compile(r"(^|\.)(module|_orig_mod|_forward_module|_fsdp_wrapped_module)\.")
# What stands before the encoder's names where others are beside it: the first that is there is
# taken. MoCo v3's own evaluation takes the base encoder, MoCo's the query encoder.
ENCODERS = (
    *("teacher.backbone.", "teacher.", "base_encoder.", "encoder_q.", "momentum_encoder."),
    *("student.backbone.", "student.", "target_encoder.", "online_encoder."),
    *("backbone.", "encoder.backbone.", "image_encoder.", "vision_encoder.", "trunk."),
    *("encoder.", "model.", "net.", "network."),
)
# A network has these, or such, under its own names: then no prefix stands before the encoder's.
OWN = (
    *("patch_embed.", "pos_embed", "cls_token", "conv1.", "conv_stem.", "stem.", "stem_0."),
    *("features.", "layer1.", "visual.", "conv_proj.", "class_token"),
)
# Beside an encoder under its own names: parts of training that no encoder has.
BESIDE = re.compile(
    r"(decoder_?\w*|mask_token|dino_head|ibot_head|projector|predictor|projection_head|prototypes"
    r"|queue|queue_ptr|center|loss\w*)(\.|$)"
)
MOCO_HEAD = re.compile(
    r"(head|fc)\.[0-9]+\.\w+$"
)  # a projection of several layers in a head's place
# DINOv2 trains blocks in chunks: blocks.2.7 is the block 7, in the third chunk. Of stages of
# convolutions, blocks.2.7 is beside blocks.1.7.
CHUNKED = re.compile(r"^blocks\.([0-9]+)\.([0-9]+)\.")


@dataclass(frozen=True)
class Checkpoint:
    """An encoder's tensors under its own names.

    Attributes:
        tensors: by name.
        taken: which of several encoders they are, in words; "" where there is one.
        left_out: parts of training beside it, by the first words of their names.
    """

    tensors: Mapping[str, Tensor]
    taken: str = ""
    left_out: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the encoder of a weights file.

    Args:
        path: a safetensors or weights-only torch file, or the index of weights in several files.

    Raises:
        UsageError: the file is missing, unreadable, or pickles more than tensors.
    """
    return encoder_of(_read(path))


def encoder_of(document: Mapping[str, Any]) -> Checkpoint:
    """Return the encoder of what training code has stored, whatever it has put around it."""
    for network in NETWORKS:
        inner = document.get(network)
        if isinstance(inner, Mapping) and _tensors_in(inner):
            found = encoder_of(inner)
            others = [one for one in NETWORKS if one != network and _is_network(document, one)]
            if not others:
                return found
            beside = f"{network}, beside {', '.join(others)}"
            return replace(found, taken=_joined(beside, found.taken))
    tensors = {
        WRAPPINGS.sub(r"\1", str(name)): value
        for name, value in document.items()
        if isinstance(value, Tensor)
    }
    return _unprefixed(tensors)


def _unprefixed(tensors: dict[str, Tensor]) -> Checkpoint:
    prefix = _prefix_of(tensors)
    if prefix:
        cut = len(prefix)
        inner = {name[cut:]: one for name, one in tensors.items() if name.startswith(prefix)}
        beside = _beginnings(name for name in tensors if not name.startswith(prefix))
        others = [one for one in beside if any(own.startswith(f"{one}.") for own in ENCODERS)]
        found = _unprefixed(inner)
        taken = f"{prefix}*, beside {', '.join(others)}" if others else ""
        left_out = dict.fromkeys((*beside, *found.left_out))
        return replace(found, taken=_joined(taken, found.taken), left_out=tuple(left_out))
    if is_of_transformers(tensors):
        tensors = from_transformers(tensors)
    is_beside = {name for name in tensors if BESIDE.match(name) or MOCO_HEAD.match(name)}
    if not any(name.startswith("decoder") for name in tensors):
        is_beside.discard("mask_token")  # DINOv2's own, which timm's conversion knows
    kept = {name: value for name, value in tensors.items() if name not in is_beside}
    chunked = [name for name in kept if name.startswith("blocks.")]
    if chunked and _are_chunks(chunked):
        kept = {CHUNKED.sub(r"blocks.\2.", name): value for name, value in kept.items()}
    return Checkpoint(kept, left_out=_beginnings(is_beside))


def _are_chunks(names: list[str]) -> bool:
    """Whether all names are of blocks in chunks, each block in one of them."""
    found = [match for name in names if (match := CHUNKED.match(name))]
    places = {(match[1], match[2]) for match in found}
    return len(found) == len(names) and len(places) == len({match[2] for match in found})


def _prefix_of(names: Collection[str]) -> str:
    """Return what stands before the names of the encoder that is taken; "" for nothing."""
    found = _before_own(names)
    if found is None:
        shared = (one for one in ENCODERS if all(name.startswith(one) for name in names))
        found = next(shared, "") if names else ""
    return found


def _before_own(names: Collection[str]) -> str | None:
    if any(name.startswith(OWN) for name in names) or is_of_transformers(names):
        return ""
    for prefix in ENCODERS:
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if inner and (deeper := _before_own(inner)) is not None:
            return prefix + deeper
    return None


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))


def _beginnings(names: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.partition(".")[0] for name in sorted(names)))


def _is_network(document: Mapping[str, Any], name: str) -> bool:
    inner = document.get(name)
    return isinstance(inner, Mapping) and _tensors_in(inner)


def _tensors_in(document: Mapping[str, Any]) -> bool:
    """Whether there are tensors in a table, or in tables in it."""
    return any(
        isinstance(value, Tensor) or (isinstance(value, Mapping) and _tensors_in(value))
        for value in document.values()
    )


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise UsageError(
            "no such weights file",
            where=f"--weights {path}",
            expected="a .safetensors file, or a torch file of tensors alone",
            hint="a folder: name the file in it" if path.is_dir() else None,
        )
    try:
        if path.name.endswith(INDEX):
            return dict(_of_parts(path))
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(loaded, Mapping):
            raise ValueError(f"a {type(loaded).__name__} instead of named tensors")
        return loaded
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
    ) as error:
        raise UsageError(
            "the weights file cannot be read",
            where=f"--weights {path}",
            expected="a .safetensors file, or a torch file of tensors alone",
            found=f"{type(error).__name__}: {_unsafe(error)}",
            hint="where you trust the file, convert it: state = torch.load(FILE, "
            "weights_only=False); safetensors.torch.save_file(state['model'], "
            "'weights.safetensors')"
            if isinstance(error, pickle.UnpicklingError)
            else "download it again, or convert it with safetensors.torch.save_file",
        ) from error


def _of_parts(index: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of weights in several files; a part that is named leads nowhere else."""
    names = json.loads(index.read_bytes())["weight_map"].values()
    for name in sorted(set(names)):
        if Path(name).name != name:
            raise ValueError(f"{name} is no file beside the index")
        yield from load_file(index.parent / name).items()


def _unsafe(error: Exception) -> str:
    """Return the first line of what is wrong, or the name of what is no tensor."""
    text = str(error)
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it pickles a {named[1]}, which is no tensor"
    return text.splitlines()[0] if text else ""
