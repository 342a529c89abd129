"""Whisper's log mel spectrogram of a recording, and its views.

Whisper was trained on windows of thirty seconds, shorter recordings being followed by digital
silence, whose frames are one value. Here a recording is followed by two seconds of it, which the
encoder hears as well: without any, tokens are worse (docs/sounds.md). A view is as long as that
needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from fungistore.modalities.audio.filterbank import QUALITY, resampled
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.audio.rolls import noisy_rolls
from fungistore.modalities.requests import NoisyRolls
from fungistore.modalities.views import Drawn, DrawnBatch, Inputs, ViewGroup
from fungistore.randomness import Stream

if TYPE_CHECKING:
    from fungistore.fingerprint import Config

RATE, WINDOW, SHIFT = 16000, 400, 160  # samples a second, of a frame, and to the next
FLOOR = 1e-10  # of the energy in a band, before its logarithm to the base of ten
RANGE = 8.0  # of the logarithms, below the greatest one of the recording
STATISTICS = (-4.0, 4.0)  # what is taken off, and what the rest is divided by
LINEAR_BELOW, LINEAR_STEP = 1000.0, 200 / 3  # Hz: Slaney's mel scale is straight up to here
LOG_STEP = np.log(6.4) / 27
SILENCE = 200  # frames that are heard behind a recording, as Whisper is used to more of them
SHORTEST = 100  # frames that a view has at least
REACH = 2  # frames behind a recording's own that hear its end; its positions see no further
_BLOCK = 1 << 11  # frames at once


@dataclass(frozen=True)
class LogMel:
    """The logarithm of the energy in mel-spaced bands, frame by frame; thread-safe.

    Attributes:
        bins: bands.
        longest: frames that are kept, of ten milliseconds each.
    """

    bins: int = 80
    longest: int = 3000

    def __call__(self, recording: Recording) -> Float32[np.ndarray, "frames bins"]:
        """Return the frames that a recording has a part in, as many as are kept; no others do.

        They begin with its own, one for each ten milliseconds that it begins.
        """
        samples = resampled(recording, RATE)[: self.longest * SHIFT].astype(np.float64)
        count = min(frames_of(len(samples), RATE) + REACH, self.longest)
        silence = min(count * SHIFT + WINDOW, self.longest * SHIFT) - len(samples)
        filled = np.pad(np.pad(samples, (0, silence)), WINDOW // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(filled, WINDOW)[::SHIFT][:count]
        found = np.empty((count, self.bins), np.float32)
        for start in range(0, count, _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] = self._of_frames(frames[block])
        return np.maximum(found, found.max() - RANGE)

    def padded_length(self, frames: int) -> int:
        """Return the frames of a view that has to hold some: 100, 150, 200, 300, 400, 600, ...

        It depends on the recording alone, so that its features do.
        """
        step = SHORTEST
        while step < frames:
            if step * 3 // 2 >= frames:
                return min(step * 3 // 2, self.longest)
            step *= 2
        return min(step, self.longest)

    def identity(self) -> Config:
        """Return what the values depend on, for fingerprints."""
        return {
            "kind": "whisper",
            "resampler": f"soxr {QUALITY}",
            "bins": self.bins,
            "longest": self.longest,
            "silence": SILENCE,
        }

    def _of_frames(self, frames: Float64[np.ndarray, "n window"]) -> Float64[np.ndarray, "n bins"]:
        spectrum = np.fft.rfft(frames * _WEIGHTS)
        energy = (spectrum.real**2 + spectrum.imag**2) @ mel_weights(self.bins)
        return np.log10(np.maximum(energy, FLOOR))


_WEIGHTS = np.hanning(WINDOW + 1)[:-1]  # the periodic window


def _mel(frequency: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    above = np.log(np.maximum(frequency, LINEAR_BELOW) / LINEAR_BELOW) / LOG_STEP
    return np.minimum(frequency, LINEAR_BELOW) / LINEAR_STEP + above


def _frequency(mel: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    corner = LINEAR_BELOW / LINEAR_STEP
    return np.minimum(mel, corner) * LINEAR_STEP * np.exp(LOG_STEP * np.maximum(mel - corner, 0))


@lru_cache(maxsize=4)
def mel_weights(bins: int) -> Float64[np.ndarray, "frequencies bins"]:
    """Return triangles of equal area, whose corners are evenly spaced on Slaney's mel scale."""
    last = _mel(np.array([RATE / 2]))[0]
    edges = _frequency(np.linspace(0, last, bins + 2))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    return np.maximum(np.minimum(rising, falling), 0) * (2 / (right - left))


@dataclass(frozen=True)
class LogMelViews:
    """Copies of a recording by a request, or where there is none the recording as it is.

    What is drawn: the views [v, bins, frames], how many of the frames are the recording's own, and
    how many they would be if its end were not left out. Copies are rolled within its own frames.

    Attributes:
        log_mel: of the encoder.
        request: the copies.
    """

    log_mel: LogMel
    request: NoisyRolls | None = None

    @cached_property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One group, whose size is the greatest length in frames."""
        count = 1 if self.request is None else self.request.count
        return (ViewGroup(count, self.log_mel.longest),)

    def on(self, device: torch.device) -> LogMelViews:
        """Return the recipe itself: it suits every device."""
        return self

    def draw(self, item: Recording, random: Stream) -> Drawn:
        """Return the views, padded to the recording's own length with its silence."""
        bank = self.log_mel(item)
        whole = frames_of(len(item.samples), item.rate)
        own = min(whole, self.log_mel.longest)
        silence = _standardised(np.maximum(np.float32(np.log10(FLOOR)), bank.max() - RANGE))
        if self.request is None:
            views = _standardised(bank)[None]
        elif self.request.noise_before:
            views = _standardised(noisy_rolls(bank[:own], self.request, random))
        else:
            views = noisy_rolls(_standardised(bank[:own]), self.request, random)
        length = self.log_mel.padded_length(own + SILENCE + REACH)
        drawn = np.full((len(views), self.log_mel.bins, length), silence, np.float32)
        drawn[..., : views.shape[1]] = views.mT
        return drawn, np.array(own), np.array(whole)

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return [b, v, bins, frames], and which of them are own, and are heard: [b, v, frames]."""
        banks, lengths, _ = drawn
        shown, places = banks[:, views], torch.arange(banks.shape[-1])
        masks = (places < lengths[:, None, None] + more for more in (0, SILENCE))
        return shown, *(mask.expand(-1, shown.shape[1], -1) for mask in masks)

    def lengths(self, drawn: DrawnBatch) -> Float[Tensor, " b"]:
        """Return the frames of each recording, with those that were left out."""
        return drawn[2].float()


def frames_of(samples: int, rate: int) -> int:
    """Return how many frames some samples begin, at least one."""
    return max(1, -(-samples * RATE // (rate * SHIFT)))


def _standardised(values: Float32[np.ndarray, "*any"]) -> Float32[np.ndarray, "*any"]:
    mean, scale = (np.float32(value) for value in STATISTICS)
    return ((values - mean) / scale).astype(np.float32)
