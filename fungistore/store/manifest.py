"""`store.json`: the version of a store's layout, its class names, the parts of its sample table."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from fungistore.errors import SchemaError, StoreError
from fungistore.location import path_to_uri, uri_to_path
from fungistore.modalities.modality import IMAGE
from fungistore.names import is_file_name
from fungistore.store.documents import CHECKSUM, sealed
from fungistore.store.samples import Part

# (major, minor): a reader opens its own major and any minor; `layout.py` describes them
SCHEMA_VERSION = (2, 4)
LOGGER = "fungistore"


@dataclass(frozen=True)
class Manifest:
    """The contents of `store.json`.

    Attributes:
        schema: (major, minor) of the layout.
        id: random name of the store, given once.
        labels: class names; a sample's label is an index into them.
        parts: files of the sample table, in row order.
        modality: name of what the samples are.
        unknown: fields of a newer minor version, handed on as they are.
    """

    schema: tuple[int, int]
    id: str
    labels: tuple[str, ...]
    parts: tuple[Part, ...]
    modality: str = IMAGE
    unknown: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the file's bytes; the count of samples is there for human readers.

        The checksum is for `fungi verify` alone: a store whose file was edited still opens.
        """
        parts = tuple(replace(part, root=path_to_uri(part.root)) for part in self.parts)
        document = asdict(replace(self, parts=parts))
        unknown = document.pop("unknown")
        count = sum(part.rows for part in self.parts)
        document = sealed(unknown | document | {"samples": count})
        return json.dumps(document, indent=1).encode()


def parse_manifest(data: bytes, where: object) -> Manifest:
    """Parse the bytes of a `store.json`.

    Raises:
        StoreError: it is damaged.
        SchemaError: it is of another major version.
    """
    try:
        document = from_json(data)
        version = TypeAdapter(tuple[int, int]).validate_python(document["schema"])
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(where, error) from error
    if version[0] != SCHEMA_VERSION[0]:
        is_newer = version[0] > SCHEMA_VERSION[0]
        raise SchemaError(
            f"the store was made by {'a newer' if is_newer else 'an earlier'} major version",
            where=where,
            expected=f"schema {SCHEMA_VERSION[0]}.x",
            found=".".join(map(str, version)),
            hint="pip install --upgrade fungistore; this version leaves the store alone"
            if is_newer
            else "extract into a new store; vectors that were imported come out with fungi export "
            "of the version that made the store",
        )
    known = ("schema", "id", "labels", "parts", "modality", "samples", CHECKSUM)
    unknown = {key: value for key, value in document.items() if key not in known}
    document = {key: value for key, value in document.items() if key in known}
    try:
        text = json.dumps(document | {"unknown": unknown})
        manifest = TypeAdapter(Manifest).validate_json(text, strict=True)
        for part in manifest.parts:
            if part.rows < 0:
                raise ValueError("a part with fewer than no rows")
            if not is_file_name(part.file):
                raise ValueError(f"a part at {part.file!r}, which is no file of the sample table")
        parts = (replace(part, root=uri_to_path(part.root)) for part in manifest.parts)
        return replace(manifest, parts=tuple(parts))
    except ValueError as error:  # pydantic's ValidationError is one
        raise _damaged(where, error) from error


def newer_minor(schema: tuple[int, int]) -> str | None:
    """Return a sentence about a schema of a newer minor version, None for one that is all known."""
    if schema <= SCHEMA_VERSION:
        return None
    newer, own = (".".join(map(str, version)) for version in (schema, SCHEMA_VERSION))
    return (
        f"the store is of schema {newer}, newer than this version's {own}: what it does not know "
        "is passed over, and kept"
    )


@cache  # once a store and process, however often a command opens it
def say_newer_minor(where: str, schema: tuple[int, int]) -> None:
    """Log a warning that a store is of a newer minor version, if it is."""
    if said := newer_minor(schema):
        logging.getLogger(LOGGER).warning(said)


def _damaged(where: object, error: Exception) -> StoreError:
    found = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else error
    return StoreError("the store's manifest is damaged", where=where, found=found)
