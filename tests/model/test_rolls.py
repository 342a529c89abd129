"""Views of recordings: noise of a bounded strength, and rolls along time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.recipes import RolledBanks, WholeBank
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.audio.rolls import noisy_rolls
from fungistore.modalities.requests import NoisyRolls
from fungistore.randomness import Stream

FRAMES, BINS = 40, 8


def stream(name: str = "a.wav") -> Stream:
    return Stream(0, "views", "simclr", name)


def test_without_noise_a_view_is_rolled_along_time() -> None:
    """Each view is the bank itself from another frame on; bands stay in their places."""
    bank = np.arange(FRAMES * BINS, dtype=np.float32).reshape(FRAMES, BINS)
    views = noisy_rolls(bank, NoisyRolls(400, noise=0.0), stream())
    shifts = [int(np.flatnonzero(view[:, 0] == 0)[0]) for view in views]
    for view, shift in zip(views, shifts, strict=True):
        assert (view == np.roll(bank, shift, axis=0)).all()
    assert {shift - FRAMES if shift > FRAMES // 2 else shift for shift in shifts} == set(
        range(-10, 10)
    )


def test_noise_is_uniform_and_of_a_strength_of_its_view() -> None:
    """A cell's noise lies in [0, strength), and strengths are uniform up to the request's noise."""
    bank = np.zeros((FRAMES, BINS), np.float32)
    views = noisy_rolls(bank, NoisyRolls(500, noise=0.5, roll=0), stream())
    strengths = views.max((1, 2))
    assert views.dtype == np.float32
    assert views.min() >= 0
    assert strengths.max() < 0.5
    assert np.allclose(np.sort(strengths), np.linspace(0, 0.5, 500), atol=0.06)
    relative = np.sort((views / strengths[:, None, None]).ravel())
    assert np.allclose(relative, np.linspace(0, 1, len(relative)), atol=0.02)


def test_views_are_the_samples_own() -> None:
    """The same stream gives the same views; another sample's others; and they are known values."""
    bank = np.zeros((FRAMES, BINS), np.float32)
    first, again, other = (
        noisy_rolls(bank, NoisyRolls(3), stream(name)) for name in ("a.wav", "a.wav", "b.wav")
    )
    assert (first == again).all()
    assert not (first == other).any()
    words = stream().words(6 + 2)  # strengths and shifts come first, then two cells a word
    strength = np.float32((int(words[0]) >> 11) * 2.0**-53 * 0.1)
    cells = [(int(words[6]) >> 8 & 0xFFFFFF), int(words[6]) >> 40]
    flat = np.roll(first[0], -shift_of(int(words[3])), axis=0).ravel()
    assert flat[:2].tolist() == [np.float32(cell * 2.0**-24) * strength for cell in cells]


def shift_of(word: int) -> int:
    return int((word >> 11) * 2.0**-53 * 20) - 10


@pytest.mark.parametrize("before", [True, False])
def test_noise_is_added_before_or_after_standardising(before: bool) -> None:
    """Before it, the noise is divided by twice the deviation as the filter banks are."""
    recording = Recording(np.sin(np.arange(8000, dtype=np.float32)), 16000)
    bank, random = FilterBank(bins=BINS), stream()
    statistics = (-6.0, 5.0)
    request = NoisyRolls(4, noise=0.1, roll=0, noise_before=before)
    (views,) = RolledBanks(bank, 64, statistics, request).draw(recording, random)
    whole, frames = WholeBank(bank, 64, statistics).draw(recording, random)
    noise = views - whole
    assert frames == 48
    assert views.shape == (4, 64, BINS)
    assert (noise > -1e-6).all()
    assert 0.5 < noise.max() / (0.01 if before else 0.1) < 1


def test_a_cut_recording_is_known() -> None:
    """A recording longer than the encoder takes loses its end, and the recipe tells how long."""
    recordings = [Recording(np.ones(samples, np.float32), 16000) for samples in (8000, 100)]
    recipe = WholeBank(FilterBank(bins=BINS), 47, (0, 1))
    drawn = zip(*(recipe.draw(recording, stream()) for recording in recordings), strict=True)
    lengths = recipe.lengths(tuple(torch.from_numpy(np.stack(arrays)) for arrays in drawn))
    assert lengths.dtype == torch.float32
    assert lengths.tolist() == [48, 1]
    assert recipe.groups[0].size == 47
