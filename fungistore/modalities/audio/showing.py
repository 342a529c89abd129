"""A recording in a page: a player of its first seconds, and the outline of the whole."""

from __future__ import annotations

import base64
import struct
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from numpy.typing import NDArray

from fungistore.modalities.audio.filterbank import resampled
from fungistore.modalities.audio.recording import Recording

PREVIEW_SECONDS = 5
PREVIEW_RATE = 16000  # 16 bits: 160 kB, and a third more as text
WIDTH, HEIGHT = 300, 64  # of the outline; it is as wide as there is room
FILLING = 'style="display: block; width: 100%"'
COLOUR = "#5b7a99"  # dark enough on white and light enough on black


def show(recording: Recording, caption: str) -> str:
    """Return a recording as HTML that needs no other file; `caption` is plain text."""
    said = escape(caption, quote=True)
    source = f"data:audio/wav;base64,{base64.b64encode(_preview(recording)).decode('ascii')}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" {FILLING} '
        f'height="{HEIGHT}" role="img" aria-label="{said}"><title>{said}</title>'
        f'<path d="{_outline(recording.samples)}" stroke="{COLOUR}" fill="none"/></svg>'
        f'<audio controls preload="metadata" {FILLING} src="{source}"></audio>'
    )


def _preview(recording: Recording) -> bytes:
    """Return the first seconds as a WAV file of 16 bits, at a rate that browsers play."""
    start = Recording(recording.samples[: PREVIEW_SECONDS * recording.rate], recording.rate)
    samples, rate = np.clip(resampled(start, PREVIEW_RATE), -1, 1), PREVIEW_RATE
    data = np.rint(samples * 32767).astype("<i2").tobytes()
    riff = struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", len(data)) + data


def _outline(samples: Float32[np.ndarray, " n"]) -> str:
    """Return the path of a line from the lowest to the highest sample in each column."""
    starts = np.unique(np.arange(WIDTH) * len(samples) // WIDTH)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    scale = max(float(np.abs(samples).max()), 1e-9)
    tops, bottoms = _heights(high / scale), _heights(low / scale)
    places = np.arange(len(starts)) * WIDTH // len(starts)
    columns = zip(places.tolist(), tops.tolist(), bottoms.tolist(), strict=True)
    return "".join(f"M{place} {top}V{bottom + 1}" for place, top, bottom in columns)


def _heights(values: NDArray[np.floating[Any]]) -> Int[np.ndarray, " n"]:
    return np.rint((1 - values) * (HEIGHT - 2) / 2).astype(np.int64)
