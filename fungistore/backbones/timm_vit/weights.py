"""Weights as they were stored: never pickled, and identified by their content alone.

What is made of them on this machine, such as position embeddings at another size, does not enter
the digest: instruction sets round it differently, and a store must open on all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any

import torch
from timm.models import load_pretrained
from torch import Tensor

from fungistore.backbones.hub import hub_asked_once
from fungistore.errors import FungiError
from fungistore.machine.user_cache import user_cache

NO_CLASSES = -1  # which no weights have, so that timm asks for none of the classifier's


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
        with hub_asked_once():
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
