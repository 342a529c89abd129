"""Which text side: its name, and its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fungistore.headings import MODEL
from fungistore.machine.choices import DeviceChoice
from fungistore.settings import Setting


@dataclass(frozen=True, kw_only=True)
class TextChoice(DeviceChoice):
    """The joint encoder whose text side meets the embeddings of a store."""

    heading = MODEL

    text_model: Annotated[
        str | None,
        Setting(
            "The joint encoder that texts go through, as open_clip:ViT-B-32/openai.",
            default="the one that made the embeddings",
            metavar="NAME",
        ),
    ] = None
    text_weights: Annotated[
        str | None,
        Setting("Its weights, both sides.", default="those of its tag", metavar="FILE"),
    ] = None

    def __post_init__(self) -> None:
        """Check every field; a file of weights is known by its whole path."""
        super().__post_init__()
        if self.text_weights is not None:
            object.__setattr__(self, "text_weights", str(Path(self.text_weights).absolute()))
