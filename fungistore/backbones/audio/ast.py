"""From a directory of transformers to a frozen audio spectrogram transformer, AST."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fungistore.backbones.audio.family import FAMILY, AudioSettings
from fungistore.backbones.audio.positions import Grid, grid_of, positions_for
from fungistore.backbones.audio.spectrograms import PREFIX, SpectrogramEncoder
from fungistore.backbones.target_layers import differentiable, refuse_other_layer
from fungistore.backbones.timm_vit.weights import digest_weights
from fungistore.backbones.transformers_folders import read_json
from fungistore.backbones.transformers_loading import digest_of_config, load_strictly
from fungistore.errors import UsageError
from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.recipes import Statistics

CARD = "preprocessor_config.json"
LOWEST_RATE = 1000  # samples a second, of which filter banks can be made
UNCHANGED: Statistics = (0.0, 0.5)  # by which standardising changes nothing
# The last attention's output projection, as releases of transformers call it.
PROJECTIONS = ("attention.o_proj", "attention.output.dense")


def load_ast(folder: Path, config: Any, settings: AudioSettings) -> SpectrogramEncoder:
    """Return the AST of a directory.

    Args:
        folder: of transformers.
        config: its configuration.
        settings: what the user says of it.

    Raises:
        UsageError: weights or the preprocessor's settings are missing, or a setting is not for it.
    """
    from transformers import ASTModel

    card = _card_of(folder, config)
    model, left_out = load_strictly(
        ASTModel, folder, config, f"{FAMILY}:{settings.name}", may_lack=lambda _: False
    )
    patch, stride = _pair(config.patch_size), (config.frequency_stride, config.time_stride)
    return encoder_of(
        model,
        settings,
        filter_bank=FilterBank(rate=card["sampling_rate"], bins=config.num_mel_bins),
        frames=settings.max_length or card["max_length"],
        statistics=settings.statistics or _statistics_of(card),
        patch=patch,
        stride=stride,
        trained=grid_of(config.num_mel_bins, config.max_length, patch, stride),
        weights_hash=digest_weights(model.state_dict()),
        config_hash=digest_of_config(folder),
        left_out=left_out,
    )


def encoder_of(
    model: Any,
    settings: AudioSettings,
    *,
    filter_bank: FilterBank,
    frames: int,
    statistics: Statistics,
    patch: Grid,
    stride: Grid,
    trained: Grid,
    weights_hash: str,
    config_hash: str,
    left_out: list[str],
) -> SpectrogramEncoder:
    """Return the encoder of a loaded model, which gets positions for other frames and strides.

    Args:
        model: transformers' AST, frozen.
        settings: what the user says of it.
        filter_bank: what it is shown.
        frames: how many.
        statistics: of the filter banks.
        patch: bins and frames of a patch.
        stride: from one patch to the next.
        trained: the grid whose positions the model has.
        weights_hash: digest of the weights as they were stored.
        config_hash: digest of what else decides what the model computes.
        left_out: weights that the model has no place for.

    Raises:
        UsageError: a setting is not for the model.
    """
    grid = grid_of(filter_bank.bins, frames, patch, stride)
    embeddings = model.embeddings
    if grid != trained:
        stored = embeddings.position_embeddings.data[0]
        places = positions_for(stored[PREFIX:].unflatten(0, trained), grid)
        made = torch.cat([stored[:PREFIX], places.flatten(0, 1)])
        embeddings.position_embeddings = nn.Parameter(made[None], requires_grad=False)
    pooling, gradient_tokens = settings.pooling or "class", settings.gradient_tokens or "pooled"
    if (pooling, gradient_tokens) == ("mean", "first"):
        raise UsageError(
            "the mean of patches has no first token",
            where="--gradient-tokens first, --pooling mean",
            expected="one of them",
        )
    candidates = differentiable(model)
    if settings.target_layer is not None:
        refuse_other_layer(model, settings.target_layer)
    return SpectrogramEncoder(
        name=settings.name,
        module=model,
        filter_bank=filter_bank,
        frames=frames,
        statistics=statistics,
        grid=grid,
        pooling=pooling,
        gradient_tokens=gradient_tokens,
        target_layer=settings.target_layer
        or [name for name in candidates if name.endswith(PROJECTIONS)][-1],
        candidates=candidates,
        weights_hash=weights_hash,
        config_hash=config_hash,
        said=(f"left out: {', '.join(left_out)}",) if left_out else (),
    )


def _card_of(folder: Path, config: Any) -> dict[str, Any]:
    """Return what a directory says of how recordings are prepared.

    Raises:
        UsageError: it says nothing, or something else than the model's configuration.
    """
    card: dict[str, Any] = read_json(folder, CARD)
    needed = {"max_length": 1, "num_mel_bins": 1, "sampling_rate": LOWEST_RATE}
    lacking = [
        name
        for name, least in needed.items()
        if type(card.get(name)) is not int or card[name] < least
    ]
    if lacking:
        raise UsageError(
            "the directory does not say how recordings are prepared",
            where=folder / CARD,
            expected=", ".join((*needed, "mean", "std")),
            found=f"no usable {', '.join(lacking)}",
            hint="download it with the model, or write it as the feature extractor's "
            ".save_pretrained(FOLDER) does",
        )
    if card["num_mel_bins"] != config.num_mel_bins:
        raise UsageError(
            "recordings would be prepared with other bins than the model has",
            where=folder / CARD,
            expected=f"num_mel_bins {config.num_mel_bins}",
            found=card["num_mel_bins"],
            hint="download both files again: they are of two models",
        )
    return card


def _statistics_of(card: dict[str, Any]) -> Statistics:
    if not card.get("do_normalize", True):
        return UNCHANGED
    mean, deviation = card.get("mean"), card.get("std")
    numbers = [value for value in (mean, deviation) if isinstance(value, int | float)]
    if len(numbers) < 2 or not all(map(isfinite, numbers)) or numbers[1] <= 0:
        raise UsageError(
            "the directory does not say how filter banks are standardised",
            where=CARD,
            expected="mean and std, which is above 0",
            found=f"mean {mean}, std {deviation}",
            hint="--statistics MEAN,DEVIATION",
        )
    return float(numbers[0]), float(numbers[1])


def _pair(patch: Any) -> Grid:
    return (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])
