"""Sounds made to do harm: each is an error of its own, in bounded memory, and never fatal."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fungistore import read_item
from fungistore.errors import AudioError
from fungistore.location import Span
from fungistore.modalities.audio.recording import Recording
from fungistore.modalities.audio.recordings import Recordings

soundfile = pytest.importorskip("soundfile")

RATE = 8000
MIB = 1 << 20


def written(samples: np.ndarray, kind: str = "WAV", rate: int = RATE, subtype: str = "") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype or None)
    return stream.getvalue()


def silence(seconds: float, kind: str = "FLAC") -> bytes:
    """Hours of it are a few kilobytes; written block by block."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", RATE, 1, format=kind) as file:
        for _ in range(int(seconds) // 100):
            file.write(np.zeros(100 * RATE, np.int16))
    return stream.getvalue()


def read(content: bytes, span: Span | None = None) -> Recording:
    stream = io.BytesIO(content)
    return Recordings().read(stream, span) if span else Recordings().read(stream)


def peak_of(call: Callable[[], object]) -> int:
    """Return how many bytes a call takes at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def with_field(content: bytes, place: int, layout: str, value: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, place, value)
    return bytes(changed)


SOUND = written(np.sin(np.arange(RATE) / 10).astype(np.float32))
CHANNELS, SAMPLE_RATE, BITS, DATA = 22, 24, 34, SOUND.index(b"data") + 4  # in a header of WAV


def refuse(content: bytes, match: str) -> None:
    with pytest.raises(AudioError, match=match):
        read(content)


def test_an_hour_of_silence_in_a_few_kilobytes_is_refused_unread() -> None:
    """The header says how long it is; a span of it costs no more than itself."""
    bomb = silence(3600)
    assert len(bomb) < MIB
    assert peak_of(lambda: refuse(bomb, "longer than 600 s; .*`start` and `end`")) < 4 * MIB
    assert peak_of(lambda: read(bomb, Span(3000, 3002))) < 4 * MIB
    assert read(bomb, Span(3000, 3002)).seconds == 2


def test_a_bomb_that_hides_its_length_is_refused_as_it_grows() -> None:
    """A FLAC header may leave the length open: decoding stops where the limit is reached."""
    bomb = silence(1000)
    hidden = with_field(with_field(bomb, 21, "B", bomb[21] & 0xF0), 22, ">I", 0)
    assert peak_of(lambda: refuse(hidden, "longer than 600 s")) < 64 * MIB
    with pytest.raises(AudioError, match="longer than 600 s"):
        Recordings().rescue(io.BytesIO(hidden))


def test_a_sound_of_the_longest_length_is_read() -> None:
    """Ten minutes are not refused, whether or not the header tells."""
    assert read(silence(600)).seconds == 600


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("length", with_field(SOUND, DATA, "<I", 0x70000000), "ends too early"),
        ("no length", with_field(SOUND, DATA, "<I", 0), "no sound"),
        ("no channel", with_field(SOUND, CHANNELS, "<H", 0), "[Cc]hannel"),
        ("65535 channels", with_field(SOUND, CHANNELS, "<H", 65535), "[Cc]hannel"),
        ("no rate", with_field(SOUND, SAMPLE_RATE, "<I", 0), "decoded"),
        ("a rate of 2 GHz", with_field(SOUND, SAMPLE_RATE, "<I", 0x7FFFFFFF), "declares a rate"),
        ("a negative rate", with_field(SOUND, SAMPLE_RATE, "<I", 0xFFFFFFFF), "decoded"),
        ("no bits", with_field(SOUND, BITS, "<H", 0), "decoded|no sound"),
        ("255 bits", with_field(SOUND, BITS, "<H", 255), "decoded|no sound"),
        ("a header alone", SOUND[:44], "too early|no sound"),
        ("half a header", SOUND[:20], "decoded"),
        ("no sound", written(np.zeros(0, np.float32)), "no sound"),
        ("no sound in flac", written(np.zeros(0, np.int16), "FLAC"), "decoded|no sound"),
        ("text", b"this is no sound at all" * 100, "decoded"),
        ("zeros", bytes(5000), "decoded"),
        ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(2000), "decoded"),
        ("marks of MPEG", b"\xff\xfb\x90\x00" * 3, "decoded"),
        ("a page of Ogg", b"OggS\x00\x04" + bytes(30), "too early|decoded"),
        ("a tag alone", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(100), "decoded"),
    ],
)
def test_headers_that_lie_are_errors(name: str, content: bytes, match: str) -> None:
    """None takes more memory than the file and a block; none ends the process."""
    assert peak_of(lambda: refuse(content, match)) < 8 * MIB


def test_more_channels_than_there_are_samples_for_are_bounded() -> None:
    """A header may call 1024 channels what was one: the frames are fewer, and no block is large."""
    content = with_field(SOUND, CHANNELS, "<H", 1024)
    assert peak_of(lambda: read(content)) < 8 * MIB
    assert len(read(content).samples) == RATE // 1024


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers_are_errors(odd: float) -> None:
    """One of them would make all features of the recording NaN."""
    samples = np.zeros(RATE, np.float32)
    samples[5] = odd
    refuse(written(samples, subtype="FLOAT"), "no numbers, or far beyond full scale")


@pytest.mark.parametrize("rate", [1, 1_000_000])
def test_odd_rates_are_read(rate: int) -> None:
    """A reader of bats or of tides has them."""
    recording = read(written(np.ones(5, np.float32) / 2, rate=rate))
    assert (recording.rate, len(recording.samples)) == (rate, 5)


def test_errors_say_the_same_each_time(tmp_path: Path) -> None:
    """No address of an object is in them: a store's failures are the same in another run."""
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(100))
    said = set()
    for _ in range(2):
        with pytest.raises(AudioError) as error:
            read_item(Recordings(), str(tmp_path), "a.wav")
        said.add(str(error.value))
    assert len(said) == 1
    assert "0x" not in said.pop()


def test_damage_anywhere_is_an_error_or_a_sound() -> None:
    """Random bytes are changed in sounds of all formats: nothing else is ever raised."""
    random = np.random.default_rng(0)
    tone = np.sin(np.arange(2000) / 10).astype(np.float32)
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "W64", "CAF"):
        whole = np.frombuffer(written(tone, kind), np.uint8)
        for _ in range(15):
            content = whole.copy()
            content[random.integers(0, len(content), 8)] = random.integers(0, 256, 8)
            for way in (Recordings().read, Recordings().rescue):
                try:
                    recording = way(io.BytesIO(content.tobytes()))
                except AudioError:
                    continue
                assert np.isfinite(recording.samples).all()
