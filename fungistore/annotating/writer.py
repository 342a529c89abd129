"""Writes the masks of a store, 64 rows after the other, and lets them count some at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from fungistore.annotating.blocks import (
    Entry,
    check_block,
    counted_again,
    make_block,
    summed,
)
from fungistore.annotating.matching import Pair
from fungistore.annotating.options import AnnotateOptions
from fungistore.annotating.result import FIRST_SHOWN, AnnotateResult
from fungistore.annotating.rules import Meaning
from fungistore.annotations.files import MaskError
from fungistore.errors import FungiError
from fungistore.store.masks import (
    MASKS,
    MasksRecord,
    masks_folder,
    read_masks_record,
    skipped_masks,
    write_mask_block,
    write_masks_record,
)
from fungistore.store.store import Store

COMMIT_SECONDS = 5.0  # what a kill costs at most


@dataclass
class MaskWriter:
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
        retry = self.options.on_error == "fail"
        checked = check_block(self.store, block, pairs, keep_others=keep_others, retry=retry)
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
        judged, more = max(1, sum(record.pixels)), [0] * len(record.classes)
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
                for name, count in zip(record.classes, [*record.pixels, *more], strict=False)
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
