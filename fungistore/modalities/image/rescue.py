"""Pixels of images whose rest is damaged: bytes without metadata, and images that end too early."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
EXIF, ADOBE, COMMENT = 0xE1, 0xEE, 0xFE  # APP1, APP14, which says how colours are coded, and COM
BASELINE = range(0xC0, 0xC2)  # SOF0 and SOF1: a sequence of blocks, coded after Huffman
NOISE = b"\x5a\xa5" * 16
FILLERS = (b"", NOISE, b"\xa5\x5a\x3c" * 16)
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")  # RST0 to RST7, in turn
PNG = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def without_metadata(content: bytes) -> Iterator[bytes]:
    """Yield an encoded image without what is not pixels: first with its orientation, then without.

    Of JPEG, PNG and WebP; of others nothing.
    """
    if content.startswith(SOI):
        yield _bare_jpeg(content, keep={EXIF, ADOBE})
        yield _bare_jpeg(content, keep={ADOBE})
    elif content.startswith(PNG):
        yield _bare_png(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        yield _bare_webp(content)


def completed_jpeg(content: bytes) -> bytes | None:
    """Return a JPEG with an end mark behind it; None of other content.

    A decoder fills with grey what is missing before the mark.
    """
    return content + EOI if content.startswith(SOI) else None


def with_other_ends(content: bytes) -> Iterator[bytes]:
    """Yield a JPEG without an end mark with ends that make no difference to it where it is whole.

    What follows the last pixel's bits is ignored, whatever it is; where bits are missing, it is
    taken for them, behind the next restart mark where there are such. Of a JPEG of several scans,
    as progressive ones are, nothing is yielded: a whole scan may be missing.
    """
    scan = _only_scan(content) if content.startswith(SOI) else None
    if scan is None:
        return
    last = 0xD7  # before the first
    for mark in _RESTART.finditer(content, scan):
        last = mark[1][0]
    restarted = bytes((0xFF, 0xD0 + (last - 0xD0 + 1) % 8)) + NOISE
    yield from (content + filler + EOI for filler in (*FILLERS, restarted))


def _only_scan(content: bytes) -> int | None:
    """Return where the scan begins that has all components of a JPEG; None where none has."""
    at, components = 2, 0
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in BASELINE:
            components = content[at + 9]
        elif marker == SOS:
            return at if content[at + 4] == components else None
        at += 1 if marker == 0xFF else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def _bare_jpeg(content: bytes, keep: set[int]) -> bytes:
    """Drop the segments of applications and comments."""
    kept, at = [SOI], 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == SOS:
            break
        length = 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        is_metadata = 0xE0 <= marker <= 0xEF or marker == COMMENT
        if not is_metadata or marker in keep:
            kept.append(content[at : at + length])
        at += length
    return b"".join([*kept, content[at:]])


def _bare_png(content: bytes) -> bytes:
    """Keep what the pixels need, with checksums that are right where they are not critical."""
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        whole = content[at : at + 12 + length]
        if name in NEEDED:
            if name == b"tRNS":
                whole = whole[:-4] + zlib.crc32(whole[4:-4]).to_bytes(4, "big")
            kept.append(whole)
        at += 12 + length
    return b"".join(kept)


def _bare_webp(content: bytes) -> bytes:
    """Keep frames and transparency."""
    kept, at = [], 12
    while at + 8 <= len(content):
        name = content[at : at + 4]
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        stop = at + 8 + length + length % 2
        if name == b"VP8X" and length >= 1:
            flags = content[at + 8] & ~0b00101100  # it has no profile, EXIF or XMP any more
            kept.append(content[at : at + 8] + bytes([flags]) + content[at + 9 : stop])
        elif name not in (b"EXIF", b"XMP ", b"ICCP"):
            kept.append(content[at:stop])
        at = stop
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
