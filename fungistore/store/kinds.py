"""How a kind of file in a store is described, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """A field of a JSON file, a column, an attribute, or a tensor."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class StoredKind:
    """A kind of file.

    Attributes:
        path: below the store; <words> stand for names.
        written_by: the command.
        meaning: what the file is.
        fields: what is in it.
        note: what holds for all fields.
    """

    path: str
    written_by: str
    meaning: str
    fields: tuple[Field, ...] = ()
    note: str = ""


SEAL = Field("checksum", "text", "digest of the other fields, for `fungi verify`")
