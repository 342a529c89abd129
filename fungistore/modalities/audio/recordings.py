"""The modality of sounds: one channel of samples, from any format that libsndfile decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np

from fungistore.errors import AudioError
from fungistore.location import Span
from fungistore.modalities.audio.decode import AUDIO_SUFFIXES, WHOLE, decode, rescue
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.modality import AUDIO
from fungistore.modalities.reading import uri_of_file

if TYPE_CHECKING:
    from fungistore.modalities.views import ViewRecipe

BLANK = Recording(np.zeros(160, np.float32), 16000)


@dataclass(frozen=True)
class Recordings:
    """Sounds; an item is a `Recording`."""

    name: ClassVar[str] = AUDIO
    item: ClassVar[str] = "recording"
    items: ClassVar[str] = "recordings"
    error: ClassVar[type[AudioError]] = AudioError
    suffixes: ClassVar[frozenset[str]] = AUDIO_SUFFIXES
    columns: ClassVar[tuple[str, ...]] = ()
    has_spans: ClassVar[bool] = True

    def read(self, stream: IO[bytes], span: Span = WHOLE) -> Recording:
        """Return the sound, or a span of it; see `decode`."""
        return decode(stream, span)

    def rescue(self, stream: IO[bytes], span: Span = WHOLE) -> Recording:
        """Return as much as there is of a sound that ends too early; see `decode.rescue`."""
        return rescue(stream, span)

    def blank(self) -> Recording:
        """Return a hundredth of a second of silence."""
        return BLANK

    def recipe(self, request: object, encoder: Any, view_size: str | int) -> ViewRecipe | None:
        """Return the views that a request becomes; see `audio_recipe`."""
        from fungistore.modalities.audio.recipes import audio_recipe

        return audio_recipe(request, encoder)

    def query(self, text: str) -> str:
        """Return the uri of the sound file at a path."""
        return uri_of_file(text, self.item)

    def show(self, item: Recording, caption: str) -> str:
        """Return a player of the first seconds, and the outline of the whole."""
        from fungistore.modalities.audio.showing import show

        return show(item, caption)
