"""What marks a store that `fungi copy` has begun and not ended: a file, and no `store.json`."""

from __future__ import annotations

import json
from shlex import quote
from typing import Any, NoReturn

from fungistore.errors import StoreError, UsageError
from fungistore.store.backend import Backend

MARKER = "copy.json"


def half_copy(backend: Backend) -> dict[str, Any] | None:
    """Return what a copy that has not ended says of itself: `store`, its id, and `source`."""
    try:
        found = json.loads(backend.read(MARKER))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def refuse_half_copy(backend: Backend) -> None:
    """Raise StoreError where a copy has not ended; it continues, or its place is emptied."""
    if found := half_copy(backend):
        source = str(found.get("source", "STORE"))
        raise StoreError(
            "a copy that has not ended: parts of the store are not there",
            where=backend.where,
            expected="a store.json, which a copy puts last",
            hint=f"fungi copy {quote(source)} {quote(backend.where)} continues it",
        )


def refuse_no_store(backend: Backend, manifest: str) -> NoReturn:
    """Raise what is to be said of a place without a store's manifest."""
    refuse_half_copy(backend)
    raise UsageError(
        "not a fungi store",
        where=backend.where,
        expected=f"a directory, or a URL, with a {manifest}",
        hint=f"make one with: fungi extract SOURCE {quote(backend.where)} --model NAME",
    )
