"""Many small objects in one, by name and tag: a cache of them, which may be stale, lost or damaged.

Whoever lists a folder knows each object's tag, and takes from here those that still have it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

import google_crc32c

MAGIC = b"fungi compacted 1\n"
CRC_BYTES = 4
MOST_BYTES = 1 << 31  # of texts, whatever a damaged or hostile object says

Entries = dict[str, tuple[str, bytes]]  # by name: the tag, and the bytes


def pack(entries: Mapping[str, tuple[str, bytes]]) -> bytes:
    """Return one object with some others, which are UTF-8 texts; those that are none are not in."""
    rows = []
    for name, (tag, data) in sorted(entries.items()):
        try:
            rows.append((name, tag, data.decode()))
        except UnicodeDecodeError:
            continue
    body = zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)
    return MAGIC + _crc(body) + body


def unpack(data: bytes | None) -> Entries:
    """Return what is in such an object; nothing where it is missing or damaged."""
    if data is None or not data.startswith(MAGIC):
        return {}
    head, body = data[: len(MAGIC) + CRC_BYTES], data[len(MAGIC) + CRC_BYTES :]
    if not head.endswith(_crc(body)):
        return {}
    try:
        rows = json.loads(zlib.decompressobj().decompress(body, MOST_BYTES))
        return {str(name): (str(tag), str(text).encode()) for name, tag, text in rows}
    except (zlib.error, ValueError, TypeError, RecursionError):
        return {}


def _crc(body: bytes) -> bytes:
    return int(google_crc32c.extend(0, body)).to_bytes(CRC_BYTES, "little")
