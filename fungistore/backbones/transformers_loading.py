"""Models of transformers from a directory: strict, silent, and without anybody's code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fungistore.backbones.transformers_folders import CONFIG
from fungistore.errors import UsageError
from fungistore.fingerprint import digest_bytes

# For every call of transformers' that reads a directory.
SAFE: Mapping[str, Any] = MappingProxyType({"trust_remote_code": False, "local_files_only": True})
# What a config.json says of files and versions, and not of what the model computes.
_VOLATILE = (
    *("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype"),
    *("attn_implementation", "_attn_implementation"),
)
# of a forward, whatever a config.json says
_OURS: Mapping[str, Any] = MappingProxyType(
    {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
)
_OF_A_BLOCK = re.compile(r"\.[0-9]+\.")


def read_config(folder: Path, model: str) -> Any:
    """Return the configuration of a directory's model.

    Which kernels compute attention, and what a forward returns beside its tokens, is not the
    directory's to say: masks are made for torch's own kernels.

    Args:
        folder: the directory.
        model: what `--model` says, for errors.

    Raises:
        UsageError: transformers knows no such model, or only by code of the directory.
    """
    from transformers import AutoConfig

    try:
        with _quiet():
            config: Any = AutoConfig.from_pretrained(folder, **SAFE, **_OURS)
    except Exception as error:  # transformers raises whatever it meets
        raise _unloadable(model, error) from error
    config._attn_implementation = None
    return config


def load_strictly(
    kind: Any,
    place: Path,
    config: Any,
    model: str,
    may_lack: Callable[[str], bool],
    tensors: Mapping[str, Tensor] | None = None,
) -> tuple[Any, list[str]]:
    """Return the frozen model of a directory, and the first names of weights it has no place for.

    Args:
        kind: a class of transformers.
        place: the directory, or the file that the tensors are of.
        config: its configuration.
        model: what `--model` says, for errors.
        may_lack: whether a weight decides nothing that is used.
        tensors: the weights under transformers' names; None: those of the directory.

    Raises:
        UsageError: weights are missing, blocks have weights that the model has no place for, or it
            cannot be made.
    """
    try:
        with _quiet():
            made, found = kind.from_pretrained(
                place if tensors is None else None,
                config=config,
                state_dict=tensors,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by their names
                **SAFE,
            )
    except Exception as error:  # transformers raises whatever it meets
        raise _unloadable(model, error) from error
    missing = [key for key in found["missing_keys"] if not may_lack(key)]
    misshapen = found["mismatched_keys"]
    if missing or misshapen:
        raise UsageError(
            f"the {'directory' if tensors is None else 'file'} lacks weights of the model, which "
            "would be random",
            where=place,
            found=f"{len(missing)} missing, {len(misshapen)} misshapen: "
            + ", ".join(map(str, [*missing, *misshapen][:3])),
            hint="download it again; the file may be of another model",
        )
    unknown = [key for key in found["unexpected_keys"] if not may_lack(key)]
    odd = [key for key in unknown if _is_within(made, key)]
    if odd:
        raise UsageError(
            "the directory has weights that its model would compute without",
            where=place,
            expected="blocks as config.json describes them",
            found=", ".join(sorted(odd)[:3]) + (", ..." if len(odd) > 3 else ""),
            hint="config.json may be of another model, or this transformers no longer has what "
            "they are for",
        )
    left_out = {key.partition(".")[0] for key in unknown}
    return made.eval().requires_grad_(False), sorted(left_out)


def _is_within(model: Any, key: str) -> bool:
    """Whether a weight is of a block of what a model has, and not of a head or a decoder."""
    own = key.removeprefix(f"{model.base_model_prefix}.")
    children = dict(model.named_children())
    return own.partition(".")[0] in children and _OF_A_BLOCK.search(own) is not None


def digest_of_config(folder: Path) -> str:
    """Return a digest of what a config.json says of the model's computation."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    known = {key: value for key, value in config.items() if key not in _VOLATILE}
    return digest_bytes(json.dumps(known, sort_keys=True).encode())


def _unloadable(model: str, error: Exception) -> UsageError:
    return UsageError(
        "the directory's model cannot be loaded",
        where=f"--model {model}",
        expected="a model of the transformers library, whose code is not in the directory",
        found=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
        hint="a newer transformers may know it; code of the directory is never run",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off the terminal: what matters is said by us."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
