"""Names, images and files that somebody made to do harm, and what must never come of them."""

from __future__ import annotations

import json
import os
import re
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from fungi_cli.main import app
from typer.testing import CliRunner, Result

from feature_world import clustered
from fungistore.fingerprint import digest_ids, fingerprint
from fungistore.sources.sample import Sample
from fungistore.store.listing import add_source
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

runner = CliRunner()

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m"
NAMES = {  # each can be the name of a file on Linux
    "escapes": f"{ESCAPES}.jpg",
    "line breaks": "a\nerror: forged\r\x0b\x0c\x85\u2028next: rm -rf.jpg",
    "bidi": "a\u202egpj.exe\u2066\u200f.jpg",
    "markup": "][red]a[link=x]b[blink].jpg",  # after the folder "[red]cat[" it closes a tag
    "emoji name": ":smile: :boom:.jpg",
    "html": "<script>alert(1)<&'\"> onerror=alert(1) x=.jpg",
    "javascript": "javascript:alert(1).jpg",
    "option": "--help.jpg",
    "formula": "=cmd|' &C calc'!A0.jpg",
    "not UTF-8": os.fsdecode(b"caf\xe9\xff.jpg"),
    "zero width": "a\u200b\ufeff\u00ad.jpg",
}
ALLOWED = {"\n"}  # between lines of this program's own


def fungi(*arguments: object, stdin: bytes | None = None) -> Result:
    return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)


def assert_tame(done: Result) -> None:
    """No character of stdout or stderr steers a terminal, and no line was forged."""
    for text in (done.stdout_bytes.decode(), done.stderr_bytes.decode()):
        odd = {c for c in text if unicodedata.category(c)[0] == "C" and c not in ALLOWED}
        assert not odd | (set(text) & {"\u2028", "\u2029"}), (odd, text)
        forged = re.findall(r"^ {0,4}(?:error: forged|next: rm)", text, re.MULTILINE)
        assert not forged, text
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception


def document(done: Result) -> dict[str, Any]:
    """The one JSON object of --json, without NaN, which is no JSON."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    found = json.loads(done.stdout, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Every file and folder below a directory."""
    return {
        os.fspath(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(root.rglob("*"))
    }


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *more: bytes, depth: int = 8) -> bytes:
    """A PNG of RGB pixels with any header, rows and further chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *more, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, png_chunk(b"IEND", b"")])


class NamedSource:
    """Samples of given ids and labels."""

    root = "/nowhere"

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def label_names(self) -> list[str]:
        return sorted({sample.label for sample in self._samples if sample.label is not None})

    def __iter__(self):
        return iter(self._samples)


def store_of(root: Path, ids: list[str], labels: list[str], split: str | None = None) -> Store:
    """A store of given ids, with embeddings of as many clusters as there are labels."""
    store = Store.open_or_create(root)
    add_source(
        store,
        NamedSource([Sample(i, i, label, split) for i, label in zip(ids, labels, strict=True)]),
    )
    vectors, _ = clustered(len(ids), len(set(labels)), 4)
    config = {"schema": 2, "layout": {"unit_rows": 8, "codec": "none"}, "made": {"name": "x"}}
    store.setups.freeze(config, {}, {})
    array = UnitArray.create(
        LocalBackend(root),
        "set/embeddings",
        shape=vectors.shape,
        dtype="float32",
        unit_rows=8,
        codec="none",
        fingerprint=fingerprint(config),
    )
    for unit in range(array.units):
        block = vectors[unit * 8 : unit * 8 + 8]
        array.publish(unit, block, digest_ids(ids[unit * 8 : unit * 8 + 8]), 0)
    return store


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (np.save, (str(self.path), np.zeros(1)))


def edit(path: Path, change: Any) -> None:
    """Change a JSON file as an attacker would."""
    found = json.loads(path.read_bytes())
    change(found)
    found.pop("checksum", None)  # an attacker can leave it out, or compute it
    path.write_text(json.dumps(found))
