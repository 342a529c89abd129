"""`fungi annotate`: the masks of a store's images are copied into it, 64 rows at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shlex import quote

from fungistore.annotating.matching import Matching
from fungistore.annotating.options import AnnotateOptions
from fungistore.annotating.result import AnnotateResult
from fungistore.annotating.rules import LOOKED_AT, Meaning, decide
from fungistore.annotating.writer import MaskWriter, first_skipped
from fungistore.errors import FungiError, StoreError, UsageError
from fungistore.location import path_to_uri, uri_to_path
from fungistore.machine.context import DEFAULT, Context
from fungistore.modalities.modality import IMAGE
from fungistore.quantities import counted
from fungistore.sources.sample import MaskWords
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.masks import (
    BLOCK_ROWS,
    MasksRecord,
    masks_folder,
    read_masks_record,
)
from fungistore.store.store import Store

READERS = 4  # threads, beside whatever else runs
THING = "annotations"  # what is locked


def annotate(
    store: str | Path,
    masks: str | Path | None = None,
    options: AnnotateOptions = AnnotateOptions(),
    *,
    restart: bool = False,
    context: Context = DEFAULT,
) -> AnnotateResult:
    """Copy the masks of a store's images into it, continuing where it stopped.

    Only masks that are new, or whose files have changed, are read; those whose files are gone stay.
    A mask that cannot be used is skipped and listed.

    Args:
        store: the store's directory.
        masks: a folder of masks that have the images' names; default: the masks that the samples'
            column `mask` names, and the folders that were given before.
        options: what the values of masks mean.
        restart: read all masks anew, and forget earlier folders where another is given; what
            values mean stays as it was, where the options do not say otherwise.
        context: its reporter is told what happens, its stop asked between blocks of 64 rows;
            another writer is waited for.

    Raises:
        UsageError: the options or the folder cannot be used; or there is no mask at all.
        FungiError: no mask can be used; or one cannot, under `on_error="fail"`.
        StoreError: the store is damaged.
        StoppedError: `context` asked for it; what was committed stays.
    """
    opened = Store.open(store)
    with disk_errors_explained(opened.where), opened.writing(THING, patience=context) as target:
        if restart:
            _drop_damaged(target)
        return take_masks(target, options, context, folder=masks, restart=restart)


def take_masks(
    store: Store,
    options: AnnotateOptions,
    context: Context,
    *,
    folder: str | Path | None = None,
    words: MaskWords | None = None,
    restart: bool = False,
) -> AnnotateResult:
    """Do what `annotate` does to a store that is held for writing its annotations.

    Args:
        store: the store.
        options: as there.
        context: as there.
        folder: of masks.
        words: what the source says of its masks' values.
        restart: as there; what the store has counts until all are read.
    """
    if store.modality.name != IMAGE:
        raise UsageError("only images have masks", where=store.where, found=store.modality.items)
    record = read_masks_record(store.folder())
    forgets = restart and folder is not None
    folders = [uri_to_path(one) for one in record.folders] if record and not forgets else []
    if folder is not None:
        folders = [*(one for one in folders if one != _folder(folder)), _folder(folder)]
    matching = Matching(store, folders)
    some = matching.some(LOOKED_AT) if record is None else []
    if record is None and not some:
        raise _nothing(store, folder)
    meaning = decide(options, record, words, some)
    if meaning.remark:
        context.reporter.notice(meaning.remark)
    is_anew = record is not None and (restart or not meaning.is_of(record))
    if record is not None and is_anew and (lost := [f for f in folders if not os.path.isdir(f)]):
        raise UsageError(
            "masks cannot be read anew: their folder is gone, and the store has the only copies",
            where=lost[0],
            hint="bring the folder back; or --restart with another one, which forgets these",
        )
    begun = _begun(None if restart else record, meaning, folders)
    writer = MaskWriter(store, begun, meaning, options, is_anew)
    if restart and record is not None:
        context.reporter.notice(f"--restart: reading {counted(record.count, 'mask')} anew")
    writer.sweep()
    _each_block(writer, matching, folders, context)
    if not writer.record.count and (writer.record.skipped or (is_anew and record and record.count)):
        raise _all_failed(writer, record)
    writer.commit()
    writer.sweep()
    return writer.result()


def _each_block(
    writer: MaskWriter, matching: Matching, folders: Sequence[str], context: Context
) -> None:
    is_partial = not all(map(os.path.isdir, folders))
    rows = len(writer.store.samples)
    context.reporter.begin("masks", rows)
    try:
        with ThreadPoolExecutor(READERS, thread_name_prefix="fungi-mask") as readers:
            for number, pairs in matching.blocks():
                context.stop_if_asked()
                writer.write(number, pairs, readers, keep_others=is_partial)
                context.reporter.advance(min(BLOCK_ROWS, rows - number * BLOCK_ROWS))
    except BaseException:
        writer.commit_some()
        raise
    finally:
        context.reporter.end()


def _folder(given: str | Path) -> str:
    """Return the absolute path of a folder of masks.

    Raises:
        UsageError: there is none.
    """
    path = Path(given).expanduser().absolute()
    if not path.is_dir():
        is_table = path.suffix.lower() in (".csv", ".tsv", ".parquet")
        raise UsageError(
            "there is no such folder of masks" if not path.exists() else "this is no folder",
            where=given,
            expected="a folder of masks that have the images' names",
            hint=f"a table with columns id and mask goes in with fungi label STORE "
            f"{quote(str(given))}; then fungi annotate STORE"
            if is_table
            else None,
        )
    return str(path)


def _begun(record: MasksRecord | None, meaning: Meaning, folders: Sequence[str]) -> MasksRecord:
    """Return what there is before the first block: nothing where it was read in another way."""
    uris = tuple(map(path_to_uri, folders))
    if record is not None and meaning.is_of(record):
        return replace(record, folders=uris, classes=meaning.classes or record.classes)
    return MasksRecord(
        classes=meaning.classes or (),
        named=meaning.classes is not None,
        void=meaning.void,
        colours=meaning.colours,
        orientation=meaning.orientation,
        folders=uris,
    )


def _drop_damaged(store: Store) -> None:
    """Remove masks whose record cannot be read."""
    folder = store.folder()
    try:
        read_masks_record(folder)
    except StoreError:
        masks_folder(folder).remove()


def _nothing(store: Store, folder: str | Path | None) -> UsageError:
    some = next(store.samples.ids(), None)
    if folder is not None:
        return UsageError(
            "no mask of this folder has the name of an image",
            where=folder,
            expected=f"such as that of {some!r}, with another suffix" if some else "images",
            hint="give the folder that the masks' paths start from, as those of the images do",
        )
    return UsageError(
        "nothing tells where the masks are",
        where=store.where,
        expected="a folder of masks, or a column `mask` of their paths in the manifest",
        hint=f"fungi annotate {quote(store.where)} MASKS",
    )


def _all_failed(writer: MaskWriter, before: MasksRecord | None) -> FungiError:
    """Return the error for masks of which none can be used; the store keeps what it had."""
    record = writer.record
    if before is None:
        writer.commit()
        said = first_skipped(writer.store)
        masks_folder(writer.store.folder()).remove()
    else:
        writer.sweep()
        said = ()
    reasons = ", ".join(f"{count} {name}" for name, count in record.skipped.items())
    count = sum(record.skipped.values()) or (before.count if before else 0)
    return FungiError(
        f"none of {counted(count, 'mask')} can be used",
        where=writer.store.where,
        found="\n".join((reasons or "no files", *said)),
        hint="--colors, --classes or --void say what values mean; fungi annotate --help",
    )
