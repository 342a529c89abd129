"""The masks of a store's images, as they were taken over: `open_masks`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from shlex import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.annotations.files import decode_mask
from fungistore.annotations.palettes import VOID as VOID
from fungistore.errors import UsageError
from fungistore.store.disk_errors import damage_explained
from fungistore.store.masks import (
    BLOCK_ROWS,
    DAMAGED,
    HINT,
    MASKS,
    MaskBlock,
    MasksRecord,
    masks_folder,
    read_mask_block,
    read_masks_record,
)
from fungistore.store.store import Store

KEPT = 8  # files of masks in memory, of 64 masks each: some MB


class Masks:
    """The masks of a store; reading is safe from many threads.

    Args:
        store: the store.
        record: what it has.

    Attributes:
        classes: the names of the classes by index.
        void: the value that was not judged in the files; None where none was.
    """

    def __init__(self, store: Store, record: MasksRecord) -> None:
        self.classes = record.classes
        self.void = record.void
        self._store = store
        self._blocks = {block.block: block for block in record.blocks}
        self._read: dict[int, pa.Table] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows that have a mask, ascending."""
        found = [block.present for _, block in sorted(self._blocks.items())]
        return np.array([row for rows in found for row in rows], np.int64)

    def read(self, row: int) -> NDArray[np.uint16]:
        """Return a row's mask [H, W], of its image's own size: classes, VOID where not judged.

        Raises:
            UsageError: the row has none.
            StoreError: it is damaged.
        """
        block = self._block_of(row)
        table = self._read.get(block.block)
        if table is None:
            table = read_mask_block(self._store.folder(), block, ("row", "mask"))
            kept = dict(list(self._read.items())[1 - KEPT :])
            self._read = kept | {block.block: table}
        place = table["row"].to_pylist().index(row)
        where = masks_folder(self._store.folder()).at(MASKS).where(block.file)
        with damage_explained(DAMAGED, where, HINT):
            return decode_mask(table["mask"][place].as_py())

    def digest(self, rows: Sequence[int] | NDArray[np.int64]) -> str:
        """Return a digest of some rows' masks and of the classes: another one is of others.

        Raises:
            UsageError: a row has no mask.
            StoreError: they are damaged.
        """
        state = hashlib.blake2b("\0".join(self.classes).encode(), digest_size=16)
        wanted = np.asarray(rows, np.int64)
        found: dict[int, str] = {}
        for number in np.unique(wanted // BLOCK_ROWS).tolist():
            block = self._blocks.get(number)
            if block is not None:
                table = read_mask_block(self._store.folder(), block, ("row", "digest"))
                pairs = zip(table["row"].to_pylist(), table["digest"].to_pylist(), strict=True)
                found |= {row: digest for row, digest in pairs if digest is not None}
        for row in wanted.tolist():
            if row not in found:
                raise self._none(row)
            state.update(f"{row}:{found[row]}".encode())
        return state.hexdigest()

    def _block_of(self, row: int) -> MaskBlock:
        block = self._blocks.get(row // BLOCK_ROWS)
        if block is None or not int(block.rows, 16) >> row % BLOCK_ROWS & 1:
            raise self._none(row)
        return block

    def _none(self, row: int) -> UsageError:
        return UsageError("the row has no mask", where=f"row {row} of {self._store.where}")


def open_masks(store: str | Path | Store) -> Masks:
    """Return the masks of a store, which `fungi annotate` or `fungi extract` have copied into it.

    Args:
        store: its directory, or an open one.

    Raises:
        UsageError: it has none.
        StoreError: they are damaged.
    """
    store = Store.open(store)
    record = read_masks_record(store.folder())
    if record is None or not record.blocks:
        raise UsageError(
            "the store has no masks",
            where=store.where,
            hint=f"fungi annotate {quote(store.where)} MASKS adds those of a folder; fungi extract "
            "takes over those of a source that has them",
        )
    return Masks(store, record)
