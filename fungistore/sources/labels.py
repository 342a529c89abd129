"""The words of a source: class names in a stable order, and the spellings of a split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

# 18 digits hold every 64-bit row or class number; longer runs of digits are names, not numbers.
_INTEGER = re.compile(r"-?[0-9]{1,18}")
# 1 1 and 1_1 are not 11
_BLANKS = re.compile(r"(?<![0-9])[\s_]+|[\s_]+(?![0-9])")

# How people name the folders or cells of a split, without case, and the one word of a store.
SPLIT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training", "trainset", "train_set", "trn"), "train"),
        **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
        **dict.fromkeys(("valset", "val_set"), "val"),
        # as Hugging Face's datasets read them
        **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
        **dict.fromkeys(("testset", "test_set", "tst"), "test"),
    }
)


def known_split(text: str) -> str | None:
    """Return the store's word for a split, None of what names none: "Train " is "train"."""
    return SPLIT_NAMES.get(text.strip().casefold().replace("-", "_").replace(" ", "_"))


def split_name(text: str | None) -> str | None:
    """Return a split under the name that a store uses; words of the source's own stay."""
    text = (text or "").strip()
    return known_split(text) or text or None


def class_name(text: str) -> str:
    """Return a class's name, whose letters have one spelling: Macs write an accent as a letter."""
    return unicodedata.normalize("NFC", text)


def class_names(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column of text as class names, without blanks around; empty cells are null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    words = column.dictionary_encode()  # far fewer than rows
    names = pc.utf8_normalize(pc.utf8_trim_whitespace(words.dictionary), "NFC")
    names = pc.if_else(pc.equal(names, ""), pa.scalar(None, pa.string()), names)
    return names.take(words.indices)


def split_names(column: pa.Array) -> pa.Array:
    """Return a column of text as splits, under the names that a store uses."""
    words = column.dictionary_encode()
    names = [split_name(name) for name in words.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(words.indices)


def sort_label_names(names: Iterable[str]) -> list[str]:
    """Return the distinct names: by value if all are integers, otherwise by code point."""
    distinct = set(names)
    if all(_INTEGER.fullmatch(name) for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def alike_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the class names that differ only in case, blanks, or how a letter is spelled."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = _BLANKS.sub("", unicodedata.normalize("NFKC", name)).casefold()
        groups.setdefault(plain, []).append(name)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]
