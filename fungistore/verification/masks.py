"""Segmentation masks: their record, and each file against its checksum; and files made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from shlex import quote

from fungistore.annotating.blocks import counted_again
from fungistore.annotating.options import AnnotateOptions
from fungistore.annotating.stage import take_masks
from fungistore.errors import FungiError, StoreError
from fungistore.machine.context import QUIET, Context
from fungistore.quantities import counted
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.documents import seal_is_broken
from fungistore.store.masks import (
    ANNOTATIONS,
    BLOCK_ROWS,
    MASKS,
    RECORD,
    masks_folder,
    read_masks_record,
    write_masks_record,
)
from fungistore.store.store import Store
from fungistore.verification.findings import (
    Finding,
    FindingKind,
    Remedy,
    first_line,
    not_mounted,
)

KIND: FindingKind = "masks-damaged"
AGAIN = "made again from the mask files"


def check_masks(store: Store, context: Context) -> Iterator[Finding]:
    """Compare the masks of a store with their record."""
    folder = masks_folder(store.folder())
    files, key = folder.at(MASKS), f"{ANNOTATIONS}/{RECORD}"
    advice = f"fungi annotate {quote(store.where)} --restart, with what values mean, reads them"
    expected = "the record of masks as it was written"
    try:
        record = read_masks_record(store.folder())
        if record is not None and seal_is_broken(json.loads(folder.read(RECORD))):
            yield Finding(KIND, key, expected, "edited fields", advice=advice)
    except StoreError as error:
        found = f"{error.what}: {first_line(error.found)}"
        yield Finding(KIND, key, expected, found, advice=advice)
        return
    if record is None:
        if names := files.list().files:
            found = f"none beside {counted(len(names), 'file')} of masks"
            remedy = Remedy("removed", remove=(files.key,))
            # a kill before the first one leaves so
            yield Finding("orphan", files.key, expected, found, "warning", remedy)
        return
    for block in record.blocks:
        context.stop_if_asked()
        where = files.key_of(block.file)
        found = ""
        try:
            if files.digest(block.file) != block.checksum:
                found = f"bytes without the checksum {block.checksum}"
        except OSError as error:
            raise_unreadable(error)
            found = "no such file"
            if away := not_mounted(store.backend, where, or_empty=False):
                yield away
                continue
        if not found and block.block * BLOCK_ROWS >= len(store.samples):
            found = f"rows beyond the sample table, which has {len(store.samples)}"
        if found:
            remedy = Remedy(AGAIN, remove=(where,))
            yield Finding(KIND, where, "masks as they were written", found, remedy=remedy)
    named = {block.file for block in record.blocks}
    for name in files.list().files:
        if name not in named:
            remedy = Remedy("removed", remove=(files.key_of(name),))
            expected, found = f"files that {RECORD} names", "another"
            yield Finding("orphan", files.key_of(name), expected, found, "warning", remedy)


def make_again(store: Store, context: Context) -> str | None:
    """Read the masks again whose files were dropped; returns what could not be, in a sentence.

    Args:
        store: the store, held for writing.
        context: its stop is asked.
    """
    before = read_masks_record(store.folder())
    if before is None:
        return None
    files = masks_folder(store.folder()).at(MASKS)
    there = tuple(block for block in before.blocks if files.has(block.file))
    left = counted_again(store, replace(before, blocks=there))
    write_masks_record(store.folder(), left)
    why = ""
    try:
        found = take_masks(store, AnnotateOptions(), Context(QUIET.reporter, context.stop)).masks
    except FungiError as error:
        found, why = left.count, f": {error.what}"
    lost = counted(before.count - found, "mask")
    return None if found >= before.count else f"{lost} could not be read again{why}"
