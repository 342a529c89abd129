"""JSON documents of a store, and the checksum inside them: `fungi verify` finds what was edited."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fungistore.fingerprint import Config, canonical_json, digest_bytes
from fungistore.store.disk_errors import damage_explained
from fungistore.store.folder import Folder

CHECKSUM = "checksum"


def sealed(document: Mapping[str, object]) -> Config:
    """Return a JSON-ready document with a checksum of its other fields."""
    return dict(document) | {CHECKSUM: _digest(document)}


def seal_is_broken(document: Mapping[str, object]) -> bool:
    """Whether fields changed since `sealed`."""
    return document.get(CHECKSUM) != _digest(document)


def encode_document(document: Mapping[str, object]) -> bytes:
    """Return a document as its file's bytes, for people to read; the order of fields is kept."""
    return json.dumps(document, indent=1).encode()


def read_document(folder: Folder, name: str, what: str, *, hint: str | None = None) -> Config:
    """Return a JSON document of a store.

    Args:
        folder: where it is.
        name: of the file.
        what: the error's sentence.
        hint: what to try.

    Raises:
        StoreError: it is missing or damaged, or has numbers that are none.
        OSError: it cannot be read, so nobody knows.
    """
    with damage_explained(what, folder.where(name), hint):
        document: Config = json.loads(folder.read(name))
        if not isinstance(document, dict):
            raise ValueError("a list or a value instead of named fields")
        canonical_json(document)
    return document


def _digest(document: Mapping[str, object]) -> str:
    fields = {key: value for key, value in document.items() if key != CHECKSUM}
    as_read = json.loads(json.dumps(fields))  # where tuples are lists, and all keys are text
    return digest_bytes(json.dumps(as_read, sort_keys=True).encode())
