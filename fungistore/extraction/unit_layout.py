"""How many rows a unit has, and in how many chunks its file keeps them."""

from __future__ import annotations

from fungistore.extraction.options import ExtractOptions
from fungistore.fingerprint import Config
from fungistore.store.mismatch import refuse_many_chunks


def asked_units(options: ExtractOptions, frozen: Config) -> tuple[int | None, int]:
    """Return the rows of a unit, None where they are to be measured, and the chunks of its file.

    Args:
        options: what is asked for.
        frozen: the flattened configuration of the feature set, {} where it is new.

    Raises:
        UsageError: its units have fewer rows than that.
    """
    chunks = options.shard_units or shards_in(frozen)
    if options.unit_rows is not None:
        return options.unit_rows * chunks, chunks
    rows: int | None = frozen.get("layout.unit_rows")
    if rows is not None:
        refuse_many_chunks(rows, chunks, str(options.name))
    return rows, chunks


def shards_in(frozen: Config) -> int:
    """Return the chunks of a unit's file in a feature set; 1 where nothing says otherwise."""
    return int(frozen.get("layout.shard_units", 1))
