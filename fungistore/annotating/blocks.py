"""The masks of 64 rows: what of them is as it was, and what has to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.annotating.matching import Pair
from fungistore.annotations.files import MaskError, MaskRules, encode_mask, read_mask
from fungistore.annotations.palettes import VOID
from fungistore.errors import StoreError
from fungistore.fingerprint import digest_array, digest_bytes
from fungistore.location import locate
from fungistore.sources.batches import microseconds
from fungistore.store.masks import BLOCK_SCHEMA, MaskBlock, MasksRecord, read_mask_block
from fungistore.store.store import Store

LOOKED_AT = ("row", "uri", "state", "problem", "pixels", "void")
Entry = dict[str, Any]
Pixels = NDArray[np.int64]


@dataclass(frozen=True)
class Checked:
    """Rows of a block against what the store has of them.

    Attributes:
        had: what the store has, by row, but the masks themselves.
        to_read: rows whose mask is new or another, with their states.
        kept: rows that stay as they are.
        gone: of those, rows whose file is not there.
        is_lost: whether what the store has cannot be read.
    """

    had: Mapping[int, Entry]
    to_read: Sequence[tuple[Pair, str]]
    kept: Sequence[int]
    gone: int
    is_lost: bool = False

    @property
    def is_same(self) -> bool:
        """Whether nothing has changed."""
        return not (self.to_read or self.is_lost) and len(self.kept) == len(self.had)


def check_block(
    store: Store, block: MaskBlock | None, pairs: Sequence[Pair], *, keep_others: bool, retry: bool
) -> Checked:
    """Compare rows with what the store has of them; a damaged block has nothing.

    Args:
        store: the store.
        block: what it has; None where it has nothing.
        pairs: the rows that should have a mask.
        keep_others: rows of which nobody knows whether they should stay as they are.
        retry: masks that could not be used are read again, though their files have not changed.
    """
    had: dict[int, Entry] = {}
    is_lost = False
    if block is not None:
        try:
            had = {row["row"]: row for row in _rows(store, block)}
        except StoreError:
            is_lost = True
    to_read, kept, gone = [], [], 0
    for pair in pairs:
        state, is_there = _state(pair)
        old = had.get(pair.row)
        has_mask = old is not None and old["problem"] is None
        is_same_file = old is not None and pair.mask is not None and old["uri"] == pair.mask.uri
        is_due = old is not None and (old["problem"] == "image" or (retry and old["problem"]))
        if old is not None and old["state"] == state and not is_due:
            kept.append(pair.row)
        elif has_mask and is_same_file and not is_there:  # what the store has, it keeps
            kept.append(pair.row)
            gone += 1
        else:
            to_read.append((pair, state))
    if keep_others:
        others = had.keys() - {pair.row for pair in pairs}
        kept += others
        gone += len(others)
    return Checked(had, to_read, kept, gone, is_lost)


def counted_again(store: Store, record: MasksRecord) -> MasksRecord:
    """Return a record whose counts are those of its files."""
    reasons: Counter[str] = Counter()
    pixels, void = np.zeros(0, np.int64), 0
    for block in record.blocks:
        for entry in _rows(store, block):
            reasons.update([entry["problem"]] if entry["problem"] else [])
            pixels = summed(pixels, entry["pixels"] or (), 1)
            void += entry["void"] or 0
    return replace(record, skipped=dict(reasons), pixels=tuple(pixels.tolist()), void_pixels=void)


def summed(total: Pixels, pixels: Sequence[int], sign: int) -> Pixels:
    """Return counts of each class with those of a mask added, or taken away."""
    total = np.pad(total, (0, max(0, len(pixels) - len(total))))
    total[: len(pixels)] += sign * np.array(pixels, np.int64)
    return total


def _rows(store: Store, block: MaskBlock) -> list[Entry]:
    """Return what a file says of its masks, without them."""
    rows: list[Entry] = read_mask_block(store.folder(), block, LOOKED_AT).to_pylist()
    return rows


def make_block(
    store: Store,
    block: MaskBlock | None,
    checked: Checked,
    rules: MaskRules,
    readers: Executor,
    on_problem: Callable[[Pair, MaskError], None],
) -> tuple[pa.Table, list[Entry]]:
    """Return the rows of a block, those that stay as they are among them, and those that were read.

    Args:
        store: the store.
        block: what it has.
        checked: the rows against it.
        rules: what decides the classes.
        readers: what reads several masks at once.
        on_problem: is told of each mask that cannot be used, in the order of the rows.
    """
    entries: list[Entry] = []
    if checked.kept and block is not None:
        kept = set(checked.kept)
        rows = read_mask_block(store.folder(), block, BLOCK_SCHEMA.names).to_pylist()
        entries = [row for row in rows if row["row"] in kept]
    read = list(readers.map(lambda one: _read(one[0], one[1], rules), checked.to_read))
    for (pair, _), (_, problem) in zip(checked.to_read, read, strict=True):
        if problem is not None:
            on_problem(pair, problem)
    new = [entry for entry, _ in read]
    entries = sorted([*entries, *new], key=lambda entry: int(entry["row"]))
    return pa.Table.from_pylist(entries, schema=BLOCK_SCHEMA), new


def _read(pair: Pair, state: str, rules: MaskRules) -> tuple[Entry, MaskError | None]:
    entry: Entry = {"row": pair.row, "uri": pair.mask.uri if pair.mask else None, "state": state}
    try:
        if pair.mask is None:
            raise MaskError("missing", "no mask in the folder has the image's name")
        if pair.others:
            names = ", ".join(pair.others)
            raise MaskError("ambiguous", f"which mask is meant cannot be told: {names}")
        classes = read_mask(pair.mask, pair.image, rules)
    except MaskError as error:
        return entry | {"problem": error.problem, "message": error.what}, error
    judged = classes[classes != VOID]
    pixels = np.bincount(judged) if judged.size else np.zeros(0, np.int64)
    entry |= {"mask": encode_mask(classes), "digest": digest_array(classes)}
    return entry | {"pixels": pixels.tolist(), "void": classes.size - judged.size}, None


def _state(pair: Pair) -> tuple[str, bool]:
    """Return what tells whether a row's mask is as it was, and whether its file is there."""
    if pair.mask is None:
        return digest_bytes(b"")[:16], False
    size, mtime = locate(pair.mask.root, pair.mask.uri).measure()
    time = microseconds(mtime)
    told = (pair.mask.uri, size, time, pair.image.uri, pair.seen, pair.others)
    return digest_bytes(repr(told).encode())[:16], time is not None
