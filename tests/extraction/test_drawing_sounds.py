"""Rows of a sample table that are sounds: drawn in threads and processes, rescued, and failed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from fungistore.extraction.decoders import InProcesses
from fungistore.extraction.drawing import BASE, Drawer, draw_row
from fungistore.modalities.audio.filterbank import FilterBank
from fungistore.modalities.audio.recipes import RolledBanks, WholeBank
from fungistore.modalities.audio.recordings import Recordings
from fungistore.modalities.requests import NoisyRolls
from fungistore.store.failures import TRUNCATED

soundfile = pytest.importorskip("soundfile")

RATE, FRAMES, BINS = 8000, 90, 16
BANK = FilterBank(rate=RATE, bins=BINS)
STATISTICS = (-6.0, 5.0)
WHOLE = WholeBank(BANK, FRAMES, STATISTICS)
ROLLED = RolledBanks(BANK, FRAMES, STATISTICS, NoisyRolls(4))
FEATURES = frozenset({"embeddings", "simclr"})


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, object]]:
    """A whole sound, two spans of it, half of it, something else, and nothing."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
    soundfile.write(stream, noise, RATE, format="WAV")
    (tmp_path / "a.wav").write_bytes(stream.getvalue())
    (tmp_path / "half.wav").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    (tmp_path / "text.wav").write_text("this is no sound")
    spans = ("a.wav#from=0&to=0.5", "a.wav#from=0.5&to=1.3")
    names = ("a.wav", *spans, "half.wav", "text.wav", "gone.wav", "a.wav#from=1&to=5")
    return [
        {"row": row, "id": name, "root": str(tmp_path), "uri": name}
        for row, name in enumerate(names)
    ]


def drawer(*, rescues: bool = False) -> Drawer:
    return Drawer(Recordings(), WHOLE, {"simclr": ROLLED}, 0, rescues=rescues)


def test_sounds_are_drawn_or_fail_one_by_one(rows: list[dict[str, object]]) -> None:
    """A span has its own frames; what cannot be read is silence, with a reason."""
    drawn = [draw_row(drawer(), row, FEATURES) for row in rows]
    errors = [one.failure.error if one.failure else None for one in drawn]
    assert errors == [None] * 3 + ["AudioError"] * 4
    assert [one.failure.message.split(":")[0] for one in drawn if one.failure] == [
        "the sound ends too early",
        "the recording cannot be decoded",
        "the recording cannot be read",
        "the span begins or ends behind the sound, which lasts 2 s",
    ]
    whole, first, second = (one.drawn[BASE][0][0] for one in drawn[:3])
    assert whole.shape == (FRAMES, BINS)
    padding = np.float32(6 / 10)  # a frame of zeros, standardised
    assert (first[:48] == whole[:48]).mean() > 0.99  # but for the mean of the whole
    assert (first[48:] == padding).all()
    assert (second != padding).any(1).sum() == 78
    assert all(one.drawn["simclr"][0].shape == (4, FRAMES, BINS) for one in drawn)
    assert len({one.digest for one in drawn[:3]}) == 3


def test_half_a_sound_is_rescued(rows: list[dict[str, object]]) -> None:
    """Where it is asked for, with a note; what is no sound stays a failure."""
    drawn = [draw_row(drawer(rescues=True), row, FEATURES) for row in rows]
    errors = [one.failure.error if one.failure else None for one in drawn]
    assert errors == [None] * 3 + [TRUNCATED, "AudioError", "AudioError", TRUNCATED]
    whole, half = drawn[0].drawn[BASE][0], drawn[3].drawn[BASE][0]
    assert np.abs(half - whole).max() < 0.01


@pytest.mark.slow
def test_processes_draw_what_threads_draw(rows: list[dict[str, object]]) -> None:
    """To the bit, views included."""
    decoders = InProcesses(drawer(rescues=True), 2)
    try:
        theirs = decoders.draw(rows, FEATURES)
    finally:
        decoders.close()
    for row, other in zip(rows, theirs, strict=True):
        ours = draw_row(drawer(rescues=True), row, FEATURES)
        assert (ours.failure, ours.digest) == (other.failure, other.digest)
        for name in FEATURES - {"embeddings"} | {BASE}:
            pairs = zip(ours.drawn[name], other.drawn[name], strict=True)
            assert all((one == another).all() for one, another in pairs)
