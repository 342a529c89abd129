"""Canonical JSON and the fingerprints made from it: equal configurations hash the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Config = dict[str, Any]
ABSENT = "(absent)"  # stands for a field that one of two configurations lacks


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no white space, so that equal values give equal text.

    Whole floats are written as integers: 15 and 15.0 are the same setting.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that identify a configuration."""
    return digest_bytes(canonical_json(config).encode())


def is_fingerprint(name: str) -> bool:
    """Whether a name is one that `fingerprint` gives."""
    return re.fullmatch("[0-9a-f]{32}", name) is not None


def digest_bytes(data: bytes) -> str:
    """Return 32 hexadecimal digits that identify some bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_array(array: NDArray[Any]) -> str:
    """Return a digest of an array's type, shape and numbers."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return digest_bytes(f"{little.dtype.str}{little.shape}".encode() + little.tobytes())


def digest_ids(ids: Iterable[str]) -> str:
    """Return a digest of sample ids in their order; two lists never share one by concatenation."""
    state = hashlib.blake2b(digest_size=16)
    for sample_id in ids:
        encoded = sample_id.encode()
        state.update(len(encoded).to_bytes(8, "little"))
        state.update(encoded)
    return state.hexdigest()


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Return a number [n] for each id, by which a table of them is searched."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), "<u8")


def digest_rows(rows: NDArray[np.int64]) -> str:
    """Return a digest of row numbers."""
    return digest_bytes(rows.astype("<i8").tobytes())


def flatten(config: Mapping[str, Any], prefix: str = "") -> Config:
    """Return nested mappings as one level with dotted keys."""
    flat: Config = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(
    stored: Mapping[str, Any], asked: Mapping[str, Any], *, common: bool, prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Return the dotted fields in which two configurations differ, with both values.

    Args:
        stored: the one.
        asked: the other.
        common: pass over fields that only one of them has; else these show as `ABSENT`.
        prefix: dotted name of the tables being compared.
    """
    names = stored.keys() & asked.keys() if common else stored.keys() | asked.keys()
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted(names):
        old, new = stored.get(name, ABSENT), asked.get(name, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, common=common, prefix=f"{prefix}{name}.")
        elif canonical_json(old) != canonical_json(new):
            found[f"{prefix}{name}"] = (old, new)
    return found


def describe(fields: Mapping[str, tuple[Any, Any]]) -> str:
    """Return a line for each field in which what is stored differs from what is asked for."""
    lines = (f"{name}: stored {old!r}, asked {new!r}" for name, (old, new) in fields.items())
    return "\n    ".join(lines)


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
