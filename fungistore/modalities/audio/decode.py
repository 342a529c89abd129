"""Encoded sound -> one channel of float32 samples, in bounded memory whatever the header says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from jaxtyping import Float32

from fungistore.errors import AudioError
from fungistore.extras import install_command
from fungistore.location import Span
from fungistore.modalities.audio.recording import Recording

_LESS_USUAL = {"aif", "aifc", "aiff", "au", "caf", "mp2", "rf64", "snd", "sph", "w64", "wave"}
AUDIO_SUFFIXES = frozenset({"wav", "flac", "ogg", "oga", "opus", "mp3"} | _LESS_USUAL)

MAX_SECONDS = 600
MAX_SAMPLES = 1 << 26  # 256 MiB: ten minutes at 96 kHz
HIGHEST_RATE = 1 << 21  # samples a second; recorders of bats have half a million
LOUDEST = 1e9  # full scale is 1, or 32768 where integers were written as floats
WHOLE = Span()
BLOCK = 1 << 18  # numbers that are decoded at once, of all channels
_SMALL_BLOCK = 1 << 12  # where the sound may end in the middle of one, which is lost

# What libsndfile notes of a header beyond the file's end: WAV, AIFF, AU, W64 and RF64. A size that
# a program wrote into a pipe, before it knew it, is near the most that 31 or 32 bits hold.
_CUT = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE
)
_UNKNOWN_SIZES = ((0x7FFF0000, 0x7FFFFFFF), (0xFFFF0000, 0xFFFFFFFF))
ROUNDING = 0.01  # seconds by which a span may end behind the sound, as rounded times do
_UNKNOWN_FRAMES = 1 << 62  # what libsndfile says of a FLAC file that does not state them
_MPEG_SLACK = 2 * 1152  # samples: encoders do not agree on the silence at both ends
_MPEG_RUN_UP = 10 * 1152  # samples: a frame's sound may begin in bits of frames before it
_OGG, _LAST_PAGE, _LONGEST_PAGE = b"OggS", 4, 65_307  # RFC 3533, section 6


def decode(stream: IO[bytes], span: Span = WHOLE) -> Recording:
    """Return the mean of all channels of an encoded sound; safe to call from many threads.

    Raises:
        AudioError: foreign or damaged content, no sound, a sound that ends before its header says
            so, longer than MAX_SECONDS or MAX_SAMPLES, samples that are no numbers, or a span
            beyond the end.
    """
    return _decoded(stream, span, whole=True)


def rescue(stream: IO[bytes], span: Span = WHOLE) -> Recording:
    """Return a sound that ends too early, as far as it goes.

    Raises:
        AudioError: nothing of it can be read, or as `decode`.
    """
    return _decoded(stream, span, whole=False)


def _decoded(stream: IO[bytes], span: Span, *, whole: bool) -> Recording:
    try:
        from fungistore.modalities.audio.sound_file import SoundFileError, StraightFile
    except (ImportError, OSError) as error:  # OSError: it has found no libsndfile
        how = install_command("audio", "soundfile")
        raise AudioError(f"soundfile is not installed: {how}") from error

    if whole and _lacks_last_page(stream):
        raise AudioError("the sound ends too early: the last page of the stream is missing")
    try:
        with StraightFile(stream) as file:
            return _recording(file, span, whole=whole)
    except SoundFileError as error:
        raise _not_decoded(error) from error


def _recording(file: Any, span: Span, *, whole: bool) -> Recording:
    rate = int(file.samplerate)
    if not 1 <= rate <= HIGHEST_RATE:
        raise AudioError(f"the header declares a rate of {rate} a second, not 1 to {HIGHEST_RATE}")
    declared = file.frames if file.frames < _UNKNOWN_FRAMES else None
    if whole and (cut := _cut_sizes(file.extra_info)):
        raise AudioError(f"the sound ends too early: {cut[1]} bytes of it are there, not {cut[0]}")
    start = round((span.start or 0.0) * rate)
    stop = declared if span.end is None else round(span.end * rate)
    if declared and stop is not None and declared < stop <= declared + ROUNDING * rate:
        stop = declared
    if declared and whole and max(start + 1, stop or 0) > declared:
        raise AudioError(
            f"the span begins or ends behind the sound, which lasts {declared / rate:g} s"
        )
    count = None if stop is None else stop - start
    most = min(MAX_SECONDS * rate, MAX_SAMPLES)
    if count is not None and count > most:
        raise _too_long(most, rate)
    samples = _samples(file, start, count, most, whole=whole)
    slack = _MPEG_SLACK if file.format == "MP3" else 0
    if whole and count is not None and len(samples) < count - slack:
        raise AudioError(f"the sound ends too early: {len(samples)} of {count} are there")
    if not len(samples):
        raise AudioError("there is no sound in it")
    if not max(-samples.min(), samples.max()) < LOUDEST:  # so NaN is found, too
        raise AudioError("some samples are no numbers, or far beyond full scale")
    return Recording(samples, rate)


def _samples(
    file: Any, start: int, count: int | None, most: int, *, whole: bool
) -> Float32[np.ndarray, " n"]:
    """Return `count` samples from a place on, or all; fewer where there are no more.

    Where the sound need not be whole, what is there before a damaged place.
    """
    from fungistore.modalities.audio.sound_file import SoundFileError

    blocks, length = [], 0
    run_up = min(start, _MPEG_RUN_UP) if file.format == "MP3" else 0
    try:
        if start:
            file.seek(start - run_up)
            file.read(run_up)
        for block in _blocks(file, count, BLOCK if whole else _SMALL_BLOCK):
            blocks.append(block)
            length += len(block)
            if length > most:
                raise _too_long(most, file.samplerate)
    except SoundFileError:
        if whole or not blocks:
            raise
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _blocks(file: Any, count: int | None, numbers: int) -> Iterator[Float32[np.ndarray, " n"]]:
    """Yield blocks of the mean of all channels, which have so many numbers together."""
    size = max(1, numbers // file.channels)
    left = size if count is None else count
    while left > 0:
        block = file.read(min(size, left), dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block[:, 0] if file.channels == 1 else block.mean(1, dtype=np.float64).astype("f4")
        left -= len(block) if count is not None else 0


def _too_long(most: int, rate: int) -> AudioError:
    return AudioError(
        f"the sound is longer than {most / rate:g} s; a manifest's columns `start` and `end` "
        "take a part of it"
    )


def _cut_sizes(log: str) -> tuple[int, int] | None:
    """Return what a header declares and what is there, in bytes, where that is less."""
    for said, there in _CUT.findall(log):
        is_known = not any(low <= int(said) <= high for low, high in _UNKNOWN_SIZES)
        if int(there) < int(said) and is_known:
            return int(said), int(there)
    return None


def _lacks_last_page(stream: IO[bytes]) -> bool:
    """Whether an Ogg stream ends before the page that says so: libsndfile takes what there is."""
    is_ogg = stream.read(len(_OGG)) == _OGG
    if is_ogg:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 2 * _LONGEST_PAGE))
        end = stream.read()
        page = end[end.rfind(_OGG) :]
        segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
        is_last = len(segments) > 0 and page[5] & _LAST_PAGE and page[26] == len(segments)
        is_ogg = not (is_last and len(page) >= 27 + len(segments) + sum(segments))
    stream.seek(0)
    return is_ogg


def _not_decoded(error: Any) -> AudioError:
    """Return libsndfile's reason, without the address of an object that soundfile adds."""
    reason = str(error.error_string).strip().rstrip(".")
    if error.code == 7 or "regular file" in reason:  # what it says where it finds no frame of MPEG
        reason = "this is no sound of a format that is known"
    return AudioError(f"the recording cannot be decoded: {reason}")
