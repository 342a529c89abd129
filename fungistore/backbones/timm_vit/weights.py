"""Weights from a file: never pickled, matched strictly, and identified by their content."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from fungistore.errors import UsageError

WRAPPERS = ("state_dict", "model", "teacher", "student", "model_state_dict")
PREFIXES = ("module.", "backbone.", "encoder.", "model.")
CLASSIFIER = (
    "head.weight",
    "head.bias",
    "fc.weight",
    "fc.bias",
    "head_dist.weight",
    "head_dist.bias",
)
NAMES_SHOWN = 4


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors or weights-only torch file into a timm model, in place.

    Known wrappers and prefixes of training code are removed, position embeddings are resampled to
    the model's grid, and a classifier that the model lacks is left out. All else must match.

    Raises:
        UsageError: the file is missing, unreadable, pickles more than tensors, or does not match.
    """
    try:
        state = checkpoint_filter_fn(_unwrap(_read(path)), model)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            "the weights file has tensors of unexpected names or shapes",
            where=f"--weights {path}",
            expected=f"the weights of a {type(model).__name__}",
            found=f"{type(error).__name__}: {error}",
        ) from error
    expected = model.state_dict()
    state = {key: value for key, value in state.items() if key in expected or key not in CLASSIFIER}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if state[key].shape != expected[key].shape
    ]
    if missing or unexpected or misshapen:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        raise UsageError(
            "the weights do not fit the model",
            where=path,
            expected=f"the {len(expected)} tensors of {type(model).__name__}",
            found="; ".join(
                f"{len(keys)} {what} ({_some(keys)})" for what, keys in found.items() if keys
            ),
            hint="check that --model names the architecture these weights were trained for",
        )
    model.load_state_dict(state, strict=True)


def weights_hash(model: nn.Module) -> str:
    """Return a digest of the model's parameters and buffers: names, types, shapes and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        state.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()


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


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown + (", ..." if len(names) > NAMES_SHOWN else "")
