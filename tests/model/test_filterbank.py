"""Filter banks against Kaldi itself, transformers' own, and the recipe read independently."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from fungistore.fingerprint import canonical_json
from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.log_mel import LogMel
from fungistore.modalities.audio.recording import Recording
from fungistore.randomness import Stream

RATE = 16000


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Half a second of two tones and noise, off its mean."""
    time = np.arange(RATE // 2) / RATE
    tones = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 5000 * time)
    noise = 0.01 * Stream(0, "noise").normal(len(time))
    return Recording((tones + noise + 0.2).astype(np.float32), RATE)


def kaldi(recording: Recording, bins: int) -> np.ndarray:
    native = pytest.importorskip("kaldi_native_fbank")
    options = native.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.frame_opts.samp_freq = recording.rate
    options.mel_opts.num_bins = bins
    options.htk_compat = True
    bank = native.OnlineFbank(options)
    bank.accept_waveform(recording.rate, recording.samples)
    bank.input_finished()
    return np.stack([bank.get_frame(frame) for frame in range(bank.num_frames_ready)])


@pytest.mark.parametrize("bins", [23, 80, 120])
def test_equal_to_kaldi(recording: Recording, bins: int) -> None:
    """As many bins as Kaldi accepts at 16 kHz have the values of its own C++ recipe."""
    ours = FilterBank(bins=bins)(recording)
    theirs = kaldi(recording, bins)
    assert ours.shape == theirs.shape == (48, bins)
    assert np.abs(ours - theirs).max() < 2e-3


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_equal_to_transformers(recording: Recording) -> None:
    """With the 128 bins of AST, where Kaldi refuses, the values are those of its own extractor."""
    ast = pytest.importorskip(
        "transformers.models.audio_spectrogram_transformer."
        "feature_extraction_audio_spectrogram_transformer"
    )
    extractor = ast.ASTFeatureExtractor(do_normalize=False, max_length=48)
    theirs = extractor(recording.samples, sampling_rate=RATE, return_tensors="np")["input_values"]
    assert np.abs(FilterBank()(recording) - theirs[0]).max() < 1e-4


def test_equal_to_the_recipe_read_sample_by_sample() -> None:
    """One frame, from the definition: sums over samples and triangles, no transform's library."""
    rate, bins, length = 800, 5, 20
    samples = Stream(0, "frame").normal(length).astype(np.float32)
    frame = [float(x) - float(samples.mean(dtype=float)) for x in samples]
    emphasised = [x - 0.97 * before for x, before in zip(frame, frame[:1] + frame, strict=False)]
    weighted = [
        x * (0.5 - 0.5 * math.cos(2 * math.pi * n / (length - 1))) for n, x in enumerate(emphasised)
    ]
    edges = np.linspace(mel(20), mel(rate / 2), bins + 2)
    energies = np.zeros(bins)
    for line in range(16):  # of 32 points
        turn = [-2j * math.pi * line * n / 32 for n in range(length)]
        power = abs(sum(x * np.exp(t) for x, t in zip(weighted, turn, strict=True))) ** 2
        energies += [
            power * triangle(mel(line * rate / 32), *edges[b : b + 3]) for b in range(bins)
        ]
    ours = FilterBank(rate=rate, bins=bins)(Recording(samples, rate))
    assert ours.shape == (1, bins)
    assert np.allclose(ours[0], np.log(np.maximum(energies, 2.0**-23)), atol=1e-5)


def mel(frequency: float) -> float:
    return 1127 * math.log(1 + frequency / 700)


def triangle(at: float, left: float, centre: float, right: float) -> float:
    if not left < at < right:
        return 0.0
    return (at - left) / (centre - left) if at <= centre else (right - at) / (right - centre)


def test_another_rate_is_resampled(recording: Recording) -> None:
    """A tone at 44.1 kHz has nearly the filter banks that it has at 16 kHz, where it is loud."""
    bank = FilterBank(bins=40)
    time = np.arange(22050) / 44100
    tone = Recording(np.sin(2 * np.pi * 440 * time).astype(np.float32), 44100)
    same = Recording(np.sin(2 * np.pi * 440 * np.arange(8000) / RATE).astype(np.float32), RATE)
    ours, expected = bank(tone), bank(same)
    assert ours.shape == expected.shape
    loud = expected > expected.max() - 7
    assert np.abs(ours - expected)[loud].max() < 0.02


@pytest.mark.parametrize("rate", [1, 44_099, 1_000_000, 2_097_143])
def test_odd_rates(rate: int) -> None:
    """Rates that no microphone has are resampled as well."""
    values = FilterBank()(Recording(np.ones(rate, np.float32), rate))
    assert values.shape == (98, 128)
    assert np.isfinite(values).all()


def test_short_recordings_and_silence() -> None:
    """What is shorter than a frame is one frame, and silence is at the floor, not at -inf."""
    bank = FilterBank()
    for count in (1, 399, 400):
        values = bank(Recording(np.zeros(count, np.float32), RATE))
        assert values.shape == (1, 128)
        assert np.allclose(values, math.log(2.0**-23))
    assert bank(Recording(np.zeros(560, np.float32), RATE)).shape == (2, 128)


def test_long_recordings_are_made_in_blocks(recording: Recording) -> None:
    """A frame's values do not depend on how many others there are."""
    long = Recording(np.tile(recording.samples, 45), RATE)
    bank = FilterBank(bins=8)
    values = bank(long)
    assert len(values) > 2048
    assert np.allclose(values[2000:2048], values[2050:2098], atol=1e-5)


def test_threads_share_a_bank(recording: Recording) -> None:
    """Many threads at once get what one gets."""
    bank = FilterBank(bins=64)
    got: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: got.append(bank(recording))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all((one == bank(recording)).all() for one in got)


def test_identity_tells_banks_apart() -> None:
    """What changes the values changes the fingerprint."""
    texts = {
        canonical_json(bank.identity())
        for bank in (
            FilterBank(),
            FilterBank(bins=64),
            FilterBank(rate=8000),
            FilterBank(frame_shift_ms=20),
            FilterBank(frame_length_ms=20),
            FilterBank(lowest=0),
        )
    }
    assert len(texts) == 6


@pytest.mark.parametrize(("count", "rate"), [(1, 44100), (2, 96000), (1, 2 << 20)])
@pytest.mark.filterwarnings("error")
def test_a_recording_that_resampling_leaves_nothing_of_is_silence(count: int, rate: int) -> None:
    """A sample or two at a high rate are less than one at the model's: no warning, no NaN."""
    tick = Recording(np.full(count, 0.5, np.float32), rate)
    silence = Recording(np.zeros(400, np.float32), 16000)
    np.testing.assert_array_equal(FilterBank()(tick), FilterBank()(silence))
    np.testing.assert_array_equal(LogMel()(tick), LogMel()(silence)[:3])
