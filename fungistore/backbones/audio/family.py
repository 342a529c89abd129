"""The family of encoders of sounds; imports transformers, and torch, only where it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from fungistore.backbones.families import BackboneCard
from fungistore.errors import UsageError

if TYPE_CHECKING:
    from fungistore.backbones.encoder import Encoder

FAMILY = "audio"
# How each architecture's encoder is made: (folder, config of transformers, settings) -> Encoder.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "audio-spectrogram-transformer": "fungistore.backbones.audio.ast:load_ast",
        "whisper": "fungistore.backbones.audio.whisper:load_whisper",
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
    """

    name: str
    target_layer: str | None = None
    max_length: int | None = None
    pooling: str | None = None


class AudioFamily:
    """Encoders of sounds of transformers: `audio:FOLDER`, or `audio:NAME` of the hub."""

    modality: ClassVar[str] = "audio"
    listed_by_name: ClassVar[bool] = True
    own_settings: ClassVar[tuple[str, ...]] = ("max_length", "pooling")

    def load(
        self,
        name: str,
        *,
        weights: Path | None,
        image_size: int | None,
        target_layer: str | None,
        view_size: str | int,
        max_length: int | None = None,
        pooling: str | None = None,
    ) -> Encoder:
        """Load a model of a directory.

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

        folder = model_folder(name if weights is None else str(weights), FAMILY)
        config = read_config(folder, model)
        if config.model_type not in KINDS:
            raise UsageError(
                "the model is no encoder of sounds that is known here",
                where=f"--model {model}",
                expected=" or ".join(KINDS),
                found=config.model_type,
            )
        settings = AudioSettings(called(name), target_layer, max_length, pooling)
        encoder: Encoder = resolve_name(KINDS[config.model_type])(folder, config, settings)
        return encoder

    def find(self, pattern: str) -> list[str]:
        """Return no names: a directory has its own, and the hub has too many."""
        return []

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield nothing: a card would have to be downloaded."""
        yield from ()
