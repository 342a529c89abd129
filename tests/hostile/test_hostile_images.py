"""Images that would fill the memory, never end, or are not what they say: read or refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile_world import fungi, png, png_chunk
from PIL import Image

from fungistore.errors import ImageError
from fungistore.modalities.image.images import Images
from fungistore.modalities.reading import read_item
from fungistore.store.store import Store
from tiny_world import TINY

BILLION = (31_623, 31_623)  # pixels
MEMORY = 2_000_000_000  # bytes that a process that reads hostile images may map beyond its imports


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height)]
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + b"\0" * 100


def _gif(width: int, height: int) -> bytes:
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\0\0\0" + b"," + b"\0" * 4 + size + b"\0\x02\x02L\x01\0;"


def _webp() -> bytes:
    """VP8X with the largest canvas that the format has, of which 16383 x 16383 is allowed."""
    body = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff\xff\xff" * 2
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _jpeg_header() -> bytes:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65_000, 65_000, 3)
    return b"\xff\xd8" + frame + b"\x01\x11\0\x02\x11\0\x03\x11\0" + b"\xff\xd9"


def _bmp(width: int, height: int) -> bytes:
    fields = (54, 0, 54, 40, width, height, 1, 24, *(0,) * 6)
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", *fields)


def _text_chunks() -> bytes:
    """A small PNG with 100 MB of text, compressed to 100 kB."""
    text = zlib.compress(b"x" * 10_000_000)
    chunks = [png_chunk(b"zTXt", b"key%d\0\0" % n + text) for n in range(10)]
    return png(2, 2, b"\0" * 14, *chunks)


def _icc_bomb() -> bytes:
    profile = zlib.compress(b"\0" * 300_000_000)
    return png(2, 2, b"\0" * 14, png_chunk(b"iCCP", b"p\0\0" + profile))


BOMBS = {
    "a PNG": png(*BILLION, b"\0" * 1000),
    "a PNG that is all there": png(40_000, 40_000, b"\0" * 5_000_000),
    "a TIFF": _tiff(*BILLION),
    "a GIF": _gif(65_535, 65_535),
    "a WebP": _webp(),
    "a JPEG": _jpeg_header(),
    "a BMP": _bmp(*BILLION),
    "a BMP upside down": _bmp(2**31 - 1, -(2**31)),
    "a PPM": b"P6\n31623 31623\n255\n",
    "a PPM with a number of a megabyte": b"P6\n" + b"9" * 1_000_000,
    "text chunks": _text_chunks(),
    "a colour profile": _icc_bomb(),
}


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _frames() -> bytes:
    frames = [Image.new("P", (64, 64), n % 256) for n in range(3_000)]
    return _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


READABLE = {
    "an animated GIF of 3,000 frames": _frames,
    "an animated WebP": lambda: _encoded(
        Image.new("RGB", (9, 9)), "WEBP", save_all=True, append_images=[Image.new("RGB", (9, 9), 9)]
    ),
    "CMYK": lambda: _encoded(Image.new("CMYK", (9, 9), (1, 2, 3, 4)), "JPEG"),
    "16 bits": lambda: _encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
    "a palette with transparency": lambda: _encoded(
        Image.new("P", (9, 9), 1), "PNG", transparency=1
    ),
    "one bit": lambda: _encoded(Image.new("1", (9, 9), 1), "PNG"),
    "one pixel": lambda: _encoded(Image.new("RGB", (1, 1)), "PNG"),
    "a line of 65,000 pixels": lambda: _encoded(Image.new("L", (65_000, 1)), "JPEG"),
}


@pytest.mark.parametrize("kind", READABLE)
def test_odd_images_are_read(tmp_path: Path, kind: str) -> None:
    """Of whatever mode, length or shape: RGB of the first frame, in a moment."""
    (tmp_path / "x").write_bytes(READABLE[kind]())
    began = time.monotonic()
    pixels = read_item(Images(), str(tmp_path), "x")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_and_scrambled_images_end_in_an_image_error(tmp_path: Path, kind: str) -> None:
    """Or in pixels, where what is left is an image; never in anything else."""
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = _encoded(noise, kind)
    for number in range(60):
        broken = bytearray(data[: int(random.integers(len(data)))] if number % 2 else data)
        for _ in range(int(random.integers(8))):
            if broken:
                broken[int(random.integers(min(200, len(broken))))] = int(random.integers(256))
        (tmp_path / "x").write_bytes(broken)
        try:
            assert read_item(Images(1_000_000), str(tmp_path), "x").shape[2] == 3
        except ImageError as error:
            assert error.where == "x"


def test_bombs_are_refused_in_bounded_memory_and_time(tmp_path: Path) -> None:
    """A process whose memory is limited reads or refuses each of them within seconds."""
    for number, data in enumerate(BOMBS.values()):
        (tmp_path / f"{number}.bin").write_bytes(data)
    code = (
        "import resource, sys, time\n"
        "from fungistore.errors import ImageError\n"
        "from fungistore.modalities.image.images import Images\n"
        "from fungistore.modalities.reading import read_item\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)\n"
        "for number in range(int(sys.argv[3])):\n"
        "    began = time.monotonic()\n"
        "    try:\n"
        "        said = str(read_item(Images(), sys.argv[1], f'{number}.bin').shape)\n"
        "    except ImageError as error:\n"
        "        said = error.what\n"
        "    print(f'{time.monotonic() - began:.1f} {said}')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(MEMORY), str(len(BOMBS))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = dict(zip(BOMBS, done.stdout.splitlines(), strict=True))
    for kind, line in lines.items():
        seconds, _, said = line.partition(" ")
        assert float(seconds) < 5, (kind, line)
        assert "MemoryError" not in said, (kind, line)
    for kind in list(BOMBS)[:9]:
        assert "declares" in lines[kind] or "cannot be decoded" in lines[kind], (kind, lines[kind])


def test_an_extraction_goes_on_past_bombs(tmp_path: Path, quick: list[object]) -> None:
    """They are listed as failed, and the rows of the other images are right."""
    data = tmp_path / "data"
    data.mkdir()
    for number, bomb in enumerate(BOMBS.values()):
        (data / f"{number:02d}.png").write_bytes(bomb)
    Image.new("RGB", (40, 40), (200, 9, 9)).save(data / "sound.png")
    done = fungi("extract", data, tmp_path / "s.fungi", *quick)
    assert done.exit_code == 3, done.stderr
    store = Store.open(tmp_path / "s.fungi")
    failed = {failure.row for failure in store.failures()}
    assert set(range(9)) <= failed
    assert len(BOMBS) not in failed
    assert np.isfinite(store.arrays(TINY)["embeddings"].read(len(BOMBS), len(BOMBS) + 1)).all()
