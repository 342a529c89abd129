"""The family of encoders of sounds; imports transformers, and torch, only where it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from fungistore.backbones.families import BackboneCard
from fungistore.choices import GradientTokens
from fungistore.errors import UsageError

if TYPE_CHECKING:
    from fungistore.backbones.encoder import Encoder

FAMILY = "audio"
SPECTROGRAMS = "audio-spectrogram-transformer"
OF_SPECTROGRAMS = ("statistics", "gradient_tokens")  # settings that AST and SSAST alone have
# How each architecture's encoder is made: (folder, config of transformers, settings) -> Encoder.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        SPECTROGRAMS: "fungistore.backbones.audio.ast:load_ast",
        "whisper": "fungistore.backbones.audio.whisper:load_whisper",
    }
)

OF_SSAST = "fungistore.backbones.audio.ssast:load_ssast"
# The published checkpoints of SSAST, and the width of their tokens.
SSAST: Mapping[str, int] = MappingProxyType(
    {
        "ssast-base-patch-400": 768,
        "ssast-base-patch-250": 768,
        "ssast-base-frame-400": 768,
        "ssast-base-frame-250": 768,
        "ssast-small-patch-400": 384,
        "ssast-tiny-patch-400": 192,
        "ssast-tiny-frame-400": 192,
    }
)


@dataclass(frozen=True)
class AudioSettings:
    """What the user says of an encoder of sounds; None: as the directory has it.

    Attributes:
        name: what `--model` says, for messages and for the store.
        target_layer: dotted name of a linear layer.
        max_length: frames of a recording.
        pooling: how tokens become an embedding, where a kind has several ways.
        statistics: mean and deviation of filter banks.
        gradient_tokens: which of the pooled tokens have a gradient, "pooled" or "first".
    """

    name: str
    target_layer: str | None = None
    max_length: int | None = None
    pooling: str | None = None
    statistics: tuple[float, float] | None = None
    gradient_tokens: GradientTokens | None = None


class AudioFamily:
    """Encoders of sounds of transformers: `audio:FOLDER`, or `audio:NAME` of the hub."""

    modality: ClassVar[str] = "audio"
    listed_by_name: ClassVar[bool] = True
    own_settings: ClassVar[tuple[str, ...]] = ("max_length", "pooling", *OF_SPECTROGRAMS)

    def load(
        self,
        name: str,
        *,
        weights: Path | None,
        image_size: int | None,
        target_layer: str | None,
        view_size: str | int,
        **own_settings: Any,
    ) -> Encoder:
        """Load a model of a directory, or SSAST's of a file.

        Raises:
            UsageError: it is none of those that are known, or a setting is not for it.
            FungiError: it could not be had.
        """
        from fungistore.backbones.transformers_folders import (
            called,
            model_folder,
            require_transformers,
        )

        model = f"{FAMILY}:{name}"
        if image_size is not None or view_size != "model":
            raise UsageError(
                "sounds have no size in pixels",
                where=f"--model {model}",
                hint="leave out --image-size and --view-size; --max-length counts frames",
            )
        require_transformers("audio", model)
        from fungistore.backbones.transformers_loading import read_config

        settings = AudioSettings(called(name), target_layer, **own_settings)
        if name in SSAST:
            encoder: Encoder = resolve_name(OF_SSAST)(weights, settings)
            return encoder
        if weights is not None and not weights.is_dir():
            raise UsageError(
                "the model's weights are in its directory",
                where=f"--weights {weights}",
                expected="the directory, where it has moved",
                hint=f"--model {FAMILY}:FOLDER; of a file are {', '.join(SSAST)}",
            )
        folder = model_folder(name if weights is None else str(weights), FAMILY)
        config = read_config(folder, model)
        if config.model_type not in KINDS:
            raise UsageError(
                "the model is no encoder of sounds that is known here",
                where=f"--model {model}",
                expected=" or ".join(KINDS),
                found=config.model_type,
            )
        for setting in OF_SPECTROGRAMS if config.model_type != SPECTROGRAMS else ():
            if setting in own_settings:
                raise UsageError(
                    "the model has no such setting",
                    where=f"--{setting.replace('_', '-')} {own_settings[setting]}",
                    expected=f"an {SPECTROGRAMS}",
                    found=config.model_type,
                    hint="leave it out",
                )
        encoder = resolve_name(KINDS[config.model_type])(folder, config, settings)
        return encoder

    def find(self, pattern: str) -> list[str]:
        """Return no names: a directory has its own, and the hub has too many."""
        return []

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield nothing: a card would have to be downloaded."""
        yield from ()
