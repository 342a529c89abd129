"""The store's schema as a document: `docs/schema.md` and `fungi status --schema` come from here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fungistore.store.kinds import StoredKind
from fungistore.store.layout import FILES, GUARANTEES, PROTOCOL, VERSIONS
from fungistore.store.manifest import SCHEMA_VERSION

PLACEHOLDER = re.compile(r"<([^>]+)>")
SEVERAL_LEVELS = ("array", "chunk", "file")  # placeholders whose values may contain a slash


@dataclass(frozen=True)
class Schema:
    """Everything that is promised about a store's files.

    Attributes:
        version: (major, minor) that this program writes.
        versions: what each version added.
        files: every kind of file.
        protocol: how a unit is committed, step by step.
        guarantees: what follows from it.
    """

    version: tuple[int, int]
    versions: tuple[tuple[str, str], ...]
    files: tuple[StoredKind, ...]
    protocol: tuple[str, ...]
    guarantees: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return the document that is kept as `docs/schema.md`."""
        return "\n".join(_document(self))

    def kind_of(self, path: str) -> StoredKind | None:
        """Return what a file of a store is, by its path below the store, None if unknown."""
        return next((kind for kind in self.files if _pattern(kind.path).fullmatch(path)), None)


def schema() -> Schema:
    """Return the schema of the stores that this version writes."""
    return Schema(SCHEMA_VERSION, VERSIONS, FILES, PROTOCOL, GUARANTEES)


def _pattern(path: str) -> re.Pattern[str]:
    parts = PLACEHOLDER.split(path)  # literal text and placeholders in turn
    expressions = [
        (r".+" if part in SEVERAL_LEVELS else r"[^/]+") if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    ]
    return re.compile("".join(expressions))


def _document(found: Schema) -> Iterator[str]:
    yield f"# The store, schema {found.version[0]}.{found.version[1]}"
    yield ""
    yield "A store is a directory. Everything in it is an ordinary file: JSON, Parquet, zarr v3,"
    yield "safetensors, faiss. Nothing is pickled. `fungi status --schema` prints this page, and"
    yield "`fungi status --schema --json` the same as data."
    yield ""
    yield "## Versions"
    yield ""
    yield "A reader opens its own major version and any minor one. What a newer minor version added"
    yield "is passed over, kept when the file is written again, and said once on stderr. Another"
    yield "major version is refused with exit code 5, and nothing is touched. A store of an older"
    yield "minor version becomes one of the newer when something is next written into it."
    yield ""
    yield from _table(("version", "what it added"), found.versions)
    yield "## Files"
    yield ""
    yield from _table(
        ("path", "written by", "what it is"),
        [(f"`{kind.path}`", kind.written_by, kind.meaning) for kind in found.files],
    )
    for kind in found.files:
        if kind.fields:
            yield f"### `{kind.path}`"
            yield ""
            if kind.note:
                yield kind.note
                yield ""
            yield from _table(
                ("field", "type", "meaning"),
                [(f"`{field.name}`", field.type, field.meaning) for field in kind.fields],
            )
    yield "## How a unit is committed"
    yield ""
    yield from (f"{number}. {step}" for number, step in enumerate(found.protocol, start=1))
    yield ""
    yield "## What that guarantees"
    yield ""
    yield from (f"- {guarantee}" for guarantee in found.guarantees)
    yield ""


def _table(header: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""
