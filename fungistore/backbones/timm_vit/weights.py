"""Weights as they were stored: never pickled, and identified by their content alone.

What is made of them on this machine, such as position embeddings at another size, does not enter
the digest: instruction sets round it differently, and a store must open on all of them.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import load_pretrained
from torch import Tensor

from fungistore.errors import FungiError, UsageError
from fungistore.machine.user_cache import user_cache

WRAPPERS = ("state_dict", "model", "teacher", "student", "model_state_dict")
PREFIXES = ("module.", "backbone.", "encoder.", "model.")
NO_CLASSES = -1  # which no weights have, so that timm asks for none of the classifier's


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or weights-only torch file.

    Known wrappers of training code, and a prefix that all names share, are removed.

    Raises:
        UsageError: the file is missing, unreadable, or pickles more than tensors.
    """
    return _unwrap(_read(path))


def download_weights(sketch: Any, name: str) -> Mapping[str, Any]:
    """Return timm's pretrained weights of a model as they were published, from cache or hub.

    Args:
        sketch: the model, which stays as it is; it may be on the meta device.
        name: of the model, for errors.

    Raises:
        FungiError: they could not be had.
    """
    caught: dict[str, Any] = {}

    def catch(state: Mapping[str, Any], _: object) -> dict[str, Tensor]:
        caught.update(state)
        return {}  # so nothing is loaded into the sketch

    try:
        load_pretrained(sketch, num_classes=NO_CLASSES, filter_fn=catch, strict=False)
    except Exception as error:  # timm raises whatever its download library raises
        raise FungiError(
            "pretrained weights cannot be had",
            where=f"--model {name}",
            found=f"{type(error).__name__}: {error}",
            hint=_other_ways(name),
        ) from error
    return caught


def _other_ways(name: str) -> str:
    """Return where else weights may come from, such as from what `fungi demo` fetched."""
    file = user_cache() / f"{name.partition('.')[0]}.safetensors"
    if file.is_file():
        return f"--weights {quote(str(file))}, which is here, or check the connection"
    return (
        "check the connection, and the tag with `fungi models`; or give a file with --weights "
        "(`fungi demo` makes one without a model hub)"
    )


def in_float32(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict whose numbers are what a model computes with.

    Weights stored in half precision would else be resampled in it, to other position embeddings
    than those of their equal in float32.
    """
    converted: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            value = in_float32(value)
        elif isinstance(value, Tensor) and value.is_floating_point():
            value = value.float()
        converted[name] = value
    return converted


def digest_weights(state: Mapping[str, Any]) -> str:
    """Return a digest of named tensors: names, types, shapes and bytes.

    Numbers of another precision count as the float32 that `in_float32` makes of them.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(_tensors(state)):
        stored = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}:{stored.dtype}:{tuple(stored.shape)};".encode())
        digest.update(stored.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict, which timm's own may keep in tables of tables."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _read(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise UsageError(
            "no such weights file",
            where=f"--weights {path}",
            expected="a .safetensors file, or a torch file of tensors alone",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(loaded, Mapping):
            raise ValueError(f"a {type(loaded).__name__} instead of named tensors")
        return loaded
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UsageError(
            "the weights file cannot be read",
            where=f"--weights {path}",
            expected="a .safetensors file, or a torch file of tensors alone",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            hint="convert it with safetensors.torch.save_file(state_dict, 'weights.safetensors')",
        ) from error


def _unwrap(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Take the state dict out of a checkpoint, and a prefix that all names share off them."""
    for wrapper in WRAPPERS:
        inner = state.get(wrapper)
        if isinstance(inner, Mapping):
            return _unwrap(inner)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            return _unwrap({key.removeprefix(prefix): value for key, value in tensors.items()})
    return tensors
