"""Weights of an image transformer for a head: all of it from the class token to the final norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from fungistore.errors import FungiError, UsageError
from fungistore.quantities import counted

ENCODER = ("cls_token", "pos_embed", "blocks.", "norm.")
NAMES_SHOWN = 4


def load_encoder(head: nn.Module, grid: tuple[int, int], init: str, timm_name: str) -> None:
    """Load what a head shares with timm's vision transformers, in place.

    Positions are resampled to the head's grid. Further blocks of the file are left out; what the
    head has must all be there.

    Args:
        head: a head with `cls_token`, `pos_embed`, `blocks` and `norm`.
        grid: (h, w) of its feature map.
        init: "timm", or a .safetensors file.
        timm_name: the timm model that "timm" stands for.

    Raises:
        FungiError: timm's weights could not be had.
        UsageError: the file is missing, unreadable, or does not fit.
    """
    state = _timm_weights(timm_name) if init == "timm" else _read(init)
    wanted = {key: value for key, value in head.state_dict().items() if key.startswith(ENCODER)}
    given = {key: state[key] for key in wanted.keys() & state.keys()}
    if "pos_embed" in given and given["pos_embed"].ndim == 3:
        given["pos_embed"] = _resized(given["pos_embed"], grid)
    unfit = [
        f"no {key}" if key not in given else f"{key} {tuple(given[key].shape)}"
        for key in wanted
        if key not in given or given[key].shape != wanted[key].shape
    ]
    if unfit:
        more = f" and {len(unfit) - NAMES_SHOWN} more" if len(unfit) > NAMES_SHOWN else ""
        raise UsageError(
            "the initial weights do not fit the head",
            where=f"--init {init}",
            expected=f"{counted(len(wanted), 'tensor')} as in timm's {timm_name}",
            found=", ".join(unfit[:NAMES_SHOWN]) + more,
            hint="give weights of that model, or --init random",
        )
    head.load_state_dict(given, strict=False)


def _resized(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample [1, 1 + n, width] positions of a square grid, if that is what they are."""
    side = math.isqrt(max(0, positions.shape[1] - 1))
    if side == 0 or side**2 + 1 != positions.shape[1]:
        return positions  # refused later, by its shape
    return resample_abs_pos_embed(positions, list(grid), [side, side])


def _timm_weights(name: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # timm raises whatever its download library raises
        raise FungiError(
            "timm's weights cannot be had",
            where="--init timm",
            expected=f"the weights of {name}, from timm's hub or its cache",
            found=f"{type(error).__name__}: {error}",
            hint="--init FILE.safetensors with these weights, or --init random",
        ) from error
    return state


def _read(path: str) -> Mapping[str, Tensor]:
    try:
        return load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise UsageError(
            "the initial weights cannot be read",
            where=f"--init {path}",
            expected="a .safetensors file with timm's names",
            found=f"{type(error).__name__}: {error}",
        ) from error
