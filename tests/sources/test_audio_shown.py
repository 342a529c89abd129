"""Recordings in a page: an outline and a player, of a bounded size, whatever the recording."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.audio.recordings import Recordings

soundfile = pytest.importorskip("soundfile")

CAPTION = 'a "talk" <of> two & more\u202e'


def played(html: str) -> tuple[np.ndarray, int]:
    found = re.search(r'src="data:audio/wav;base64,([^"]+)"', html)
    assert found
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(found[1])), dtype="float32")
    return samples, rate


def test_the_beginning_can_be_heard() -> None:
    """Five seconds at 16 kHz, the same sound; the caption is text, not markup."""
    time = np.arange(44100 * 8) / 44100
    html = Recordings().show(Recording(np.sin(880 * time).astype(np.float32), 44100), CAPTION)
    samples, rate = played(html)
    assert (len(samples), rate) == (5 * 16000, 16000)
    expected = np.sin(880 * np.arange(5 * 16000) / 16000)
    assert np.abs(samples - expected)[100:-100].max() < 0.01
    assert "<of>" not in html
    assert html.count("<audio") == 1


@pytest.mark.parametrize("count", [1, 7, 300, 301, 5_000_000])
@pytest.mark.parametrize("rate", [1, 16000, 1_000_000])
def test_any_recording_is_a_few_hundred_kilobytes(count: int, rate: int) -> None:
    """Short ones, long ones, and those of odd rates; silence and loud floats, too."""
    samples = np.zeros(count, np.float32)
    samples[: count // 2] = 1000
    html = Recordings().show(Recording(samples, rate), "x")
    assert len(html) < 300_000
    outline = ElementTree.fromstring(html[: html.index("<audio")])
    path = outline[1].attrib["d"]
    heights = [int(number) for number in re.findall(r"[ V](\d+)", path)]
    assert path.count("M") == min(count, 300)
    assert 0 <= min(heights) <= max(heights) <= 64


def test_what_cannot_be_read_is_stood_in_for() -> None:
    """The blank item is a recording like others."""
    blank = Recordings().blank()
    assert blank.seconds > 0
    assert "<audio" in Recordings().show(blank, "blank")
