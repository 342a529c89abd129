"""Log mel filter banks after Kaldi's recipe, as AST and SSAST were trained on.

Written out, since Kaldi and its ports refuse the 128 bins of those models: at 16 kHz the lowest
ones are narrower than a bin of the Fourier transform, and some hold none. torchaudio, which both
models were trained with, leaves such bins at the floor, and so does this.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64

from fungistore.modalities.audio.recording import Recording

if TYPE_CHECKING:
    from fungistore.fingerprint import Config

FLOOR = float(np.finfo(np.float32).eps)  # of the energy in a bin, before its logarithm
PRE_EMPHASIS = 0.97
QUALITY = "HQ"  # of soxr: what librosa, datasets and transformers resample with
_BLOCK = 1 << 11  # frames at once: a long recording takes no more memory than its samples


@dataclass(frozen=True)
class FilterBank:
    """The logarithm of the energy in mel-spaced bands, frame by frame; thread-safe.

    The recording is resampled and loses its mean; a frame loses its own, is pre-emphasised and
    weighted by a Hann window. Only whole frames count; a recording that is shorter than one is
    filled up with zeros.

    Attributes:
        rate: samples a second of what the frames are cut from.
        bins: bands.
        frame_shift_ms: from one frame to the next.
        frame_length_ms: of a frame.
        lowest: Hz at which the first band begins; the last one ends at half the rate.
    """

    rate: int = 16000
    bins: int = 128
    frame_shift_ms: float = 10.0
    frame_length_ms: float = 25.0
    lowest: float = 20.0

    @property
    def frame_shift(self) -> int:
        """Samples from one frame to the next."""
        return int(self.rate * self.frame_shift_ms / 1000)

    @property
    def frame_length(self) -> int:
        """Samples of a frame."""
        return int(self.rate * self.frame_length_ms / 1000)

    def __call__(self, recording: Recording) -> Float32[np.ndarray, "frames bins"]:
        """Return the filter banks of a recording; at least one frame."""
        samples = resampled(recording, self.rate).astype(np.float64)
        samples -= samples.mean()
        if len(samples) < self.frame_length:
            samples = np.pad(samples, (0, self.frame_length - len(samples)))
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.frame_length)
        frames = frames[:: self.frame_shift]
        banks = np.empty((len(frames), self.bins), np.float32)
        for start in range(0, len(frames), _BLOCK):
            block = slice(start, start + _BLOCK)
            banks[block] = self._of_frames(frames[block])
        return banks

    def identity(self) -> Config:
        """Return what the values depend on, for fingerprints."""
        return {"kind": "kaldi", "resampler": f"soxr {QUALITY}", **asdict(self)}

    def _of_frames(self, frames: Float64[np.ndarray, "n length"]) -> Float64[np.ndarray, "n bins"]:
        frames = frames - frames.mean(1, keepdims=True)
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        size = 1 << (self.frame_length - 1).bit_length()
        spectrum = np.fft.rfft(
            (frames - PRE_EMPHASIS * before) * np.hanning(self.frame_length), size
        )
        energy = spectrum.real**2 + spectrum.imag**2
        energy = energy @ _mel_weights(self, size)
        return np.log(np.maximum(energy, FLOOR))


def resampled(recording: Recording, rate: int) -> Float32[np.ndarray, " n"]:
    """Return a recording's samples at another rate; silence of one where none is left."""
    if recording.rate == rate:
        return recording.samples
    import soxr

    samples: Any = soxr.resample(recording.samples, recording.rate, rate, quality=QUALITY)
    return np.asarray(samples if len(samples) else np.zeros(1), np.float32)


def _mel(frequency: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)


@lru_cache(maxsize=8)
def _mel_weights(bank: FilterBank, size: int) -> Float64[np.ndarray, "frequencies bins"]:
    """Return triangles that are straight on the mel scale; Kaldi leaves Nyquist's frequency out."""
    edges = np.linspace(_mel(bank.lowest), _mel(bank.rate / 2), bank.bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mels = _mel(np.arange(size // 2 + 1) * bank.rate / size)[:, None]
    weights = np.minimum((mels - left) / (centre - left), (right - mels) / (right - centre))
    weights = np.maximum(weights, 0.0)
    weights[-1] = 0.0
    return weights
