"""A checksum inside a JSON document, of its other fields: `fungi verify` finds what was edited."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from fungistore.fingerprint import Config

CHECKSUM = "checksum"


def sealed(document: Mapping[str, object]) -> Config:
    """Return a JSON-ready document with a checksum of its other fields."""
    return dict(document) | {CHECKSUM: _digest(document)}


def seal_is_broken(document: Mapping[str, object]) -> bool:
    """Whether fields changed since `sealed`; a document of an earlier version has no checksum."""
    return CHECKSUM in document and document[CHECKSUM] != _digest(document)


def _digest(document: Mapping[str, object]) -> str:
    fields = {key: value for key, value in document.items() if key != CHECKSUM}
    as_read = json.loads(json.dumps(fields))  # where tuples are lists, and all keys are text
    return hashlib.blake2b(json.dumps(as_read, sort_keys=True).encode(), digest_size=16).hexdigest()
