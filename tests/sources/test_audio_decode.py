"""Sounds from their files: every format, one channel, spans, and what is said of damaged ones."""

from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fungistore import read_item
from fungistore.errors import AudioError
from fungistore.location import Span, span_uri
from fungistore.modalities.audio.decode import BLOCK
from fungistore.modalities.audio.recordings import Recordings
from fungistore.modalities.reading import digest_item, read_with_digest, rescue_item

soundfile = pytest.importorskip("soundfile")

RATE = 8000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "w64": ("W64", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
LOSSY = ("ogg", "opus", "mp3")


def tone(seconds: float = 1.0, frequency: float = 200.0) -> np.ndarray:
    """A tone that gets louder, so that each second of it differs from the others."""
    time = np.arange(int(seconds * RATE)) / RATE
    sound: np.ndarray = np.sin(2 * np.pi * frequency * time) * (0.2 + 0.1 * time)
    return sound.astype(np.float32)


def encoded(samples: np.ndarray, kind: str = "wav", rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=FORMATS[kind][0], subtype=FORMATS[kind][1])
    return stream.getvalue()


def read(content: bytes) -> np.ndarray:
    samples: np.ndarray = Recordings().read(io.BytesIO(content)).samples
    return samples


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_read(kind: str) -> None:
    """What was written is read, exactly where the format loses nothing."""
    recording = Recordings().read(io.BytesIO(encoded(tone(), kind)))
    assert (recording.rate, recording.samples.dtype) == (RATE, np.float32)
    assert recording.seconds == pytest.approx(1, abs=0.001)
    close = 0.1 if kind in LOSSY else 1e-4
    count = min(len(recording.samples), RATE)
    assert np.abs(recording.samples[:count] - tone()[:count]).max() < close


def test_channels_are_averaged() -> None:
    """Whatever their number, blocks included."""
    for count in (2, 200):
        channels = np.stack([tone(0.5) * (number % 2) for number in range(count)], axis=1)
        assert np.allclose(read(encoded(channels, "float.wav")), tone(0.5) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", ["float.wav", "mp3"])
def test_long_sounds_are_read_in_blocks(kind: str) -> None:
    """What libsndfile decodes in one go comes out of several blocks, the same to the bit."""
    content = encoded(np.tile(tone(), 80), kind)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        samples = file.read(dtype="float32")
    assert len(samples) > 2 * BLOCK
    assert (read(content) == samples).all()
    assert (Recordings().rescue(io.BytesIO(content)).samples == samples).all()


@pytest.mark.parametrize("kind", ["wav", "rf64", "w64", "aiff", "au", "flac", "ogg", "mp3"])
def test_sounds_that_end_too_early_are_noticed_and_rescued(kind: str) -> None:
    """libsndfile takes what is there of most; here it is an error, unless it is to be rescued."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE).astype(np.float32)
    content = encoded(noise, kind)
    half = content[: len(content) // 2]
    with pytest.raises(AudioError, match=r"too early|lost sync"):
        read(half)
    rescued = Recordings().rescue(io.BytesIO(half)).samples
    assert 0.4 * len(noise) < len(rescued) < 0.6 * len(noise)
    close = 0.6 if kind in LOSSY else 1e-4
    assert np.abs(rescued[:RATE] - noise[:RATE]).max() < close


def test_what_follows_the_sound_is_ignored() -> None:
    """Tags and rubbish behind a whole sound do not spoil it."""
    for kind in ("wav", "flac", "ogg", "mp3"):
        assert len(read(encoded(tone(), kind) + bytes(1000))) == RATE


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"])
def test_numbers_of_all_widths_are_between_minus_one_and_one(subtype: str) -> None:
    """As telephones, recorders and programs write them."""
    stream = io.BytesIO()
    soundfile.write(stream, tone(), RATE, format="WAV", subtype=subtype)
    close = 0.2 if subtype == "IMA_ADPCM" else 0.02
    assert np.abs(read(stream.getvalue())[:RATE] - tone()).max() < close
    with pytest.raises(AudioError, match="too early"):
        read(stream.getvalue()[:-2000])


def test_tags_before_the_sound_are_passed_over() -> None:
    """A picture of the album is longer than the sound."""
    tag = b"ID3\x03\x00\x00\x00\x02\x00\x00" + bytes(2 << 14)
    for kind in ("mp3", "flac"):
        assert len(read(tag + encoded(tone(), kind))) == RATE


def test_threads_read_at_once() -> None:
    """Decoders have no state in common."""
    contents = [encoded(tone(frequency=100 + 50 * n), "mp3") for n in range(8)]
    expected = [read(content) for content in contents]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(read, contents))
            assert all((one == other).all() for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("kind", "size"),
    [("wav", 0xFFFFFFFF), ("wav", 0x7FFFFFFF), ("wav", 0x7FFFF000), ("au", 0xFFFFFFFF)],
)
def test_headers_of_pipes_are_believed_in_nothing(kind: str, size: int) -> None:
    """A program that writes into a pipe puts a huge size first; what is there is the sound."""
    content = bytearray(encoded(tone(), kind))
    place = content.index(b"data") + 4 if kind == "wav" else 8
    struct.pack_into("<I" if kind == "wav" else ">I", content, place, size)
    assert len(read(bytes(content))) == RATE


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "mp3", "aiff"])
def test_spans_are_what_the_whole_has_there(kind: str, tmp_path: Path) -> None:
    """From one second to another, to the end, and from the beginning."""
    path = tmp_path / f"talk.{kind}"
    path.write_bytes(encoded(tone(3), kind))
    whole = read_item(Recordings(), str(tmp_path), path.name).samples
    for span in (Span(1.5, 2.25), Span(1.5, None), Span(None, 0.5), Span(0.0, 3.0)):
        uri = span_uri(path.name, span)
        part = read_item(Recordings(), str(tmp_path), uri).samples
        first = int((span.start or 0) * RATE)
        last = int((span.end or 3) * RATE)
        assert len(part) == last - first
        assert np.allclose(part, whole[first:last], atol=2e-3)
        assert rescue_item(Recordings(), str(tmp_path), uri).seconds == part.size / RATE


@pytest.mark.parametrize("span", [Span(3.5, 4), Span(2, 3.5), Span(3, None), Span(None, 99)])
def test_spans_beyond_the_end_are_errors(span: Span, tmp_path: Path) -> None:
    """What is not there is not made shorter in silence."""
    (tmp_path / "talk.wav").write_bytes(encoded(tone(3)))
    with pytest.raises(AudioError, match="behind the sound, which lasts 3 s") as error:
        read_item(Recordings(), str(tmp_path), span_uri("talk.wav", span))
    assert error.value.where == span_uri("talk.wav", span)


def test_a_span_has_a_digest_of_its_own(tmp_path: Path) -> None:
    """It changes with the file and with the span; both ways to it give the same."""
    path = tmp_path / "talk.wav"
    path.write_bytes(encoded(tone(3)))
    uris = ["talk.wav", "talk.wav#from=1&to=2", "talk.wav#from=1&to=3"]
    before = [digest_item(str(tmp_path), uri) for uri in uris]
    assert len(set(before)) == 3
    assert [read_with_digest(Recordings(), str(tmp_path), uri)[1] for uri in uris] == before
    path.write_bytes(encoded(tone(3.5)))
    assert not set(before) & {digest_item(str(tmp_path), uri) for uri in uris}
