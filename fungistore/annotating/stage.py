"""`fungi annotate`: the masks of a store's images are copied into it, 64 rows at a time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from shlex import quote

import numpy as np

from fungistore.annotating.blocks import (
    Entry,
    check_block,
    counted_again,
    make_block,
    summed,
)
from fungistore.annotating.matching import Matching, Pair
from fungistore.annotating.options import AnnotateOptions
from fungistore.annotating.result import FIRST_SHOWN, AnnotateResult
from fungistore.annotating.rules import LOOKED_AT, Meaning, decide
from fungistore.annotations.files import MaskError
from fungistore.errors import FungiError, StoreError, UsageError
from fungistore.location import path_to_uri, uri_to_path
from fungistore.machine.context import DEFAULT, Context
from fungistore.modalities.modality import IMAGE
from fungistore.quantities import counted
from fungistore.sources.sample import MaskWords
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.masks import (
    BLOCK_ROWS,
    MASKS,
    MasksRecord,
    masks_folder,
    read_masks_record,
    skipped_masks,
    write_mask_block,
    write_masks_record,
)
from fungistore.store.store import Store

READERS = 4  # threads, beside whatever else runs
COMMIT_SECONDS = 5.0  # what a kill costs at most
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
        restart: first forget the masks that the store has, and their folders; what values mean
            stays as it was, where the options do not say otherwise.
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
            _forget(target, context)
        return take_masks(target, options, context, folder=masks)


def take_masks(
    store: Store,
    options: AnnotateOptions,
    context: Context,
    *,
    folder: str | Path | None = None,
    words: MaskWords | None = None,
) -> AnnotateResult:
    """Do what `annotate` does to a store that is held for writing its annotations.

    Args:
        store: the store.
        options: as there.
        context: as there.
        folder: of masks.
        words: what the source says of its masks' values.
    """
    if store.modality.name != IMAGE:
        raise UsageError("only images have masks", where=store.where, found=store.modality.items)
    record = read_masks_record(store.folder())
    folders = [uri_to_path(one) for one in record.folders] if record else []
    if folder is not None:
        folders = [*(one for one in folders if one != _folder(folder)), _folder(folder)]
    matching = Matching(store, folders)
    some = matching.some(LOOKED_AT) if record is None else []
    if record is None and not some:
        raise _nothing(store, folder)
    meaning = decide(options, record, words, some)
    if meaning.remark:
        context.reporter.notice(meaning.remark)
    is_anew = record is not None and not meaning.is_of(record)
    writer = _Writer(store, _begun(record, meaning, folders), meaning, options, is_anew)
    writer.sweep()
    _each_block(writer, matching, folders, context)
    if not writer.record.count and writer.record.skipped:
        raise _all_failed(writer, record)
    writer.commit()
    writer.sweep()
    return writer.result()


def _each_block(
    writer: _Writer, matching: Matching, folders: Sequence[str], context: Context
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


@dataclass
class _Writer:
    """Writes block after block, and lets them count some at a time.

    Where all are read anew, those of before count until the last one is.
    """

    store: Store
    record: MasksRecord
    meaning: Meaning
    options: AnnotateOptions
    is_anew: bool
    read: int = 0
    kept: int = 0
    gone: int = 0
    _since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._blocks = {block.block: block for block in self.record.blocks}
        self._reasons = Counter(self.record.skipped)
        self._pixels = np.array(self.record.pixels, np.int64)
        self._void = self.record.void_pixels
        self._is_lost = False

    def write(
        self, number: int, pairs: Sequence[Pair], readers: ThreadPoolExecutor, *, keep_others: bool
    ) -> None:
        """Bring a block to what the rows' masks are."""
        block = self._blocks.get(number)
        checked = check_block(self.store, block, pairs, keep_others=keep_others)
        self.kept += sum(checked.had[row]["problem"] is None for row in checked.kept)
        self.gone += checked.gone
        if checked.is_same:
            return
        rules = self.meaning.rules
        table, new = make_block(self.store, block, checked, rules, readers, self._refuse)
        self.read += len(new)
        kept = set(checked.kept)
        self._is_lost |= checked.is_lost
        self._count([entry for row, entry in checked.had.items() if row not in kept], -1)
        self._count(new, 1)
        self._blocks.pop(number, None)
        if len(table):
            self._blocks[number] = write_mask_block(self.store.folder(), number, table)
        self.record = self._updated()
        if time.monotonic() - self._since > COMMIT_SECONDS:
            self.commit_some()

    def commit_some(self) -> None:
        """Let what was written count before all is, if there are masks."""
        if self.record.count and not self.is_anew:
            self.commit()

    def commit(self) -> None:
        """Let what was written count."""
        if self._is_lost:  # nobody knows what a damaged file had added to the counts
            self.record = counted_again(self.store, self.record)
            self._reasons = Counter(self.record.skipped)
            self._pixels, self._void = np.array(self.record.pixels), self.record.void_pixels
            self._is_lost = False
        write_masks_record(self.store.folder(), self.record)
        self._since = time.monotonic()

    def sweep(self) -> None:
        """Remove files that do not count: those of before, or of a run that was killed."""
        stored = read_masks_record(self.store.folder())
        named = {block.file for block in stored.blocks} if stored else set()
        folder = masks_folder(self.store.folder()).at(MASKS)
        for name in set(folder.list().files) - named:
            folder.remove(name)

    def result(self) -> AnnotateResult:
        """Return what was done."""
        record = self.record
        judged = max(1, sum(record.pixels))
        return AnnotateResult(
            store=self.store.where,
            images=len(self.store.samples),
            masks=record.count,
            read=self.read,
            kept=self.kept,
            gone=self.gone,
            skipped=sum(record.skipped.values()),
            reasons=record.skipped,
            failures=first_skipped(self.store) if record.skipped else (),
            classes=record.classes,
            void=record.void,
            share={
                name: round(count / judged, 6)
                for name, count in zip_longest(record.classes, record.pixels, fillvalue=0)
            },
        )

    def _refuse(self, pair: Pair, error: MaskError) -> None:
        if self.options.on_error == "fail":
            where = pair.mask.uri if pair.mask else pair.image.uri
            hint = "--on-error skip leaves such masks out, and lists them"
            raise FungiError(f"a mask cannot be used: {error.what}", where=where, hint=hint)

    def _count(self, entries: Sequence[Entry], sign: int) -> None:
        for entry in entries:
            if problem := entry.get("problem"):
                self._reasons[problem] += sign
                continue
            self._pixels = summed(self._pixels, entry["pixels"], sign)
            self._void += sign * entry["void"]

    def _updated(self) -> MasksRecord:
        counts = np.trim_zeros(self._pixels, "b").tolist()
        classes = self.record.classes
        if not self.record.named:
            classes = tuple(map(str, range(len(counts))))
        return replace(
            self.record,
            classes=classes,
            blocks=tuple(self._blocks[number] for number in sorted(self._blocks)),
            skipped={name: self._reasons[name] for name in sorted(+self._reasons)},
            pixels=tuple(counts),
            void_pixels=self._void,
        )


def first_skipped(store: Store) -> tuple[str, ...]:
    """Return the first masks that could not be used, each in a line."""
    said = []
    for one in skipped_masks(store.folder()):
        (sample,) = store.samples.take([one.row])
        said.append(": ".join(filter(None, (sample["id"], one.uri, one.message))))
        if len(said) == FIRST_SHOWN:
            break
    return tuple(said)


def _forget(store: Store, context: Context) -> None:
    """Forget masks and folders; what values mean stays, unless the record is damaged."""
    folder = store.folder()
    try:
        record = read_masks_record(folder)
    except StoreError:
        masks_folder(folder).remove()
        return
    if record is not None:
        context.reporter.notice(f"--restart: deleting {counted(record.count, 'mask')}")
        empty = replace(record, folders=(), blocks=(), skipped={}, pixels=(), void_pixels=0)
        write_masks_record(folder, empty)


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


def _all_failed(writer: _Writer, before: MasksRecord | None) -> FungiError:
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
    return FungiError(
        f"none of {counted(sum(record.skipped.values()), 'mask')} can be used",
        where=writer.store.where,
        found="\n".join((reasons, *said)),
        hint="--colors, --classes or --void say what values mean; fungi annotate --help",
    )
