"""Canonical JSON and the fingerprints made from it: equal configurations hash the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

Config = dict[str, Any]


def canonical_json(config: Mapping[str, Any]) -> str:
    """Return JSON with sorted keys and no white space, so that equal values give equal text.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that identify a configuration."""
    return hashlib.blake2b(canonical_json(config).encode(), digest_size=16).hexdigest()


def digest_ids(ids: Iterable[str]) -> str:
    """Return a digest of sample ids in their order; two lists never share one by concatenation."""
    state = hashlib.blake2b(digest_size=16)
    for sample_id in ids:
        encoded = sample_id.encode()
        state.update(len(encoded).to_bytes(8, "little"))
        state.update(encoded)
    return state.hexdigest()


def flatten(config: Mapping[str, Any], prefix: str = "") -> Config:
    """Return nested mappings as one level with dotted keys."""
    flat: Config = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted fields that both configurations have with different values."""
    old, new = flatten(stored), flatten(asked)
    return {
        key: (old[key], new[key]) for key in sorted(old.keys() & new.keys()) if old[key] != new[key]
    }
