"""The words of a source: class names in a stable order, and the spellings of a split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

# 18 digits hold every 64-bit row or class number; longer runs of digits are names, not numbers.
_INTEGER = re.compile(r"-?[0-9]{1,18}")

# How people name the folders or cells of a split, and the one word that a store uses.
SPLIT_NAMES: Mapping[str, str] = MappingProxyType(
    {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
)


def sort_label_names(names: Iterable[str]) -> list[str]:
    """Return the distinct names: by value if all are integers, otherwise by code point."""
    distinct = set(names)
    if all(_INTEGER.fullmatch(name) for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)
