"""The family of text encoders; imports transformers, and torch, only where it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fungistore.backbones.families import BackboneCard
from fungistore.errors import UsageError

if TYPE_CHECKING:
    from fungistore.backbones.encoder import Encoder

FAMILY = "text"


class TextFamily:
    """Text encoders of the transformers library: `text:FOLDER`, or `text:NAME` of the hub."""

    modality: ClassVar[str] = "text"
    listed_by_name: ClassVar[bool] = True
    own_settings: ClassVar[tuple[str, ...]] = ("pooling", "max_length", "prompt")

    def load(
        self,
        name: str,
        *,
        weights: Path | None,
        image_size: int | None,
        target_layer: str | None,
        view_size: str | int,
        pooling: str | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
    ) -> Encoder:
        """Load a model; see `load_text_encoder`."""
        from fungistore.backbones.transformers_folders import require_transformers

        model = f"{FAMILY}:{name}"
        if weights is not None and not weights.is_dir():
            raise UsageError(
                "a text encoder's weights are in its directory",
                where=f"--weights {weights}",
                expected="the directory, where it has moved",
                hint=f"--model {FAMILY}:FOLDER, with config.json, tokenizer and safetensors in it",
            )
        if image_size is not None or view_size != "model":
            raise UsageError(
                "texts have no size in pixels",
                where=f"--model {model}",
                hint="leave out --image-size and --view-size; --max-length counts tokens",
            )
        require_transformers("text", model)
        from fungistore.backbones.texts.loading import load_text_encoder

        return load_text_encoder(
            name if weights is None else str(weights),
            target_layer=target_layer,
            pooling=pooling,
            max_length=max_length,
            prompt=prompt,
        )

    def find(self, pattern: str) -> list[str]:
        """Return no names: a directory has its own, and the hub has too many."""
        return []

    def describe(self, names: list[str]) -> Iterator[BackboneCard]:
        """Yield nothing: a card would have to be downloaded."""
        yield from ()
