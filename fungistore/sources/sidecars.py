"""What stands beside an item of a shard: `key.cls` and `key.json`, in any case and order."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Members that are a label as text, by what follows the key.
LABEL_MEMBERS = frozenset({"cls", "class", "label", "cls.txt", "class.txt", "label.txt"})
JSON_MEMBER = "json"
# Fields of a .json, without case and marks; of several, the first with text or an integer counts.
LABEL_FIELDS = (
    *("label", "cls", "classname", "class", "labelname", "labeltext", "category", "categoryname"),
    *("target", "targetname", "species", "classlabel", "labelid", "classid", "categoryid"),
)
SPLIT_FIELDS = ("split", "subset", "partition", "set", "phase", "fold", "usage")
LONGEST_LABEL = 1 << 16  # anything longer is no name of a class
LONGEST_JSON = 1 << 24  # captions and boxes are short; more would fill the memory
_REASON_LENGTH = 100


@dataclass(frozen=True)
class Told:
    """What sidecars say of an item.

    Attributes:
        label: name of its class, as it is written.
        split: its split, as it is written.
        flaw: why a sidecar cannot be used.
    """

    label: str | None = None
    split: str | None = None
    flaw: str | None = None


def is_sidecar(extension: str) -> bool:
    """Whether a member is one, by what follows its key."""
    return extension.lower() == JSON_MEMBER or extension.lower() in LABEL_MEMBERS


def most_read(extension: str) -> int:
    """Return how many bytes a sidecar may have."""
    return LONGEST_JSON if extension.lower() == JSON_MEMBER else LONGEST_LABEL


def told_by(sidecars: Sequence[tuple[str, bytes | None]]) -> Told:
    """Put together what the sidecars of one item say.

    A label that stands alone goes before that of a .json. One sidecar that cannot be used makes the
    whole item unknown: a wrong class would be worse.

    Args:
        sidecars: names and contents; None of those that are longer than `most_read`.
    """
    labels: list[str] = []
    fields: dict[str, object] = {}
    for name, content in sidecars:
        try:
            if content is None:
                raise ValueError("it is too long for metadata")
            if name.lower().endswith(f".{JSON_MEMBER}"):
                fields |= _fields(content)
            elif text := _decoded(content).strip():
                labels.append(text)
        except (ValueError, RecursionError) as error:
            return Told(flaw=f"{name} cannot be used: {str(error)[:_REASON_LENGTH]}")
    label = labels[0] if labels else _first(fields, LABEL_FIELDS)
    return Told(label, _first(fields, SPLIT_FIELDS))


def _fields(content: bytes) -> dict[str, object]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        return {}
    plain = [(re.sub(r"[\s_.\-]+", "", name).casefold(), value) for name, value in fields.items()]
    return dict(reversed(plain))  # of two names that are alike, the first one


def _decoded(content: bytes) -> str:
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    if "\0" in text:
        raise ValueError("it is not text")
    return text


def _first(fields: Mapping[str, object], names: Sequence[str]) -> str | None:
    return next(filter(None, (_text(fields.get(name)) for name in names)), None)


def _text(value: object) -> str | None:
    """Return text and integers as text that any format can store, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip().encode(errors="backslashreplace").decode() or None
