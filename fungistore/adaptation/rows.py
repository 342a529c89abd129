"""What is trained on: labelled images of a store, each read once before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.adaptation.options import AdaptOptions
from fungistore.errors import ItemError, MismatchError
from fungistore.evaluation.task import LabelledRows, labelled_rows, with_validation
from fungistore.fingerprint import Config, digest_array, digest_ids, digest_rows
from fungistore.machine.context import Context
from fungistore.matrices.splits import Split
from fungistore.modalities.modality import Modality
from fungistore.modalities.reading import read_with_digest
from fungistore.store.coverage import Coverage
from fungistore.store.disk_errors import damage_explained
from fungistore.store.folder import Folder
from fungistore.store.item_digests import FAILED, UNKNOWN, Digests
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store

ITEMS = "items.npy"
READ_AT_ONCE = 256  # items; between two of these a stop is asked for
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Items:
    """What was read of the rows that may be trained or validated on.

    Attributes:
        rows: ascending row numbers [n].
        digests: of their bytes [n]; FAILED where no image could be made of them.
    """

    rows: Rows
    digests: Digests

    @property
    def failed(self) -> Rows:
        """Rows without an image."""
        return self.rows[self.digests == FAILED]

    def of(self, rows: Rows) -> Digests:
        """Return the digests of some rows; UNKNOWN of those that came later."""
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        return np.where(self.rows[places] == rows, self.digests[places], np.uint64(UNKNOWN))

    def write(self, folder: Folder) -> None:
        """Keep them beside a run."""
        buffer = BytesIO()
        np.save(buffer, np.stack([self.rows.astype(np.uint64), self.digests]))
        folder.publish(ITEMS, buffer.getvalue())

    @staticmethod
    def read(folder: Folder) -> Items:
        """Read them back.

        Raises:
            StoreError: they are missing or damaged.
        """
        with damage_explained("what an adaptation was begun with is damaged", folder.where(ITEMS)):
            table: NDArray[np.uint64] = np.load(BytesIO(folder.read(ITEMS)), allow_pickle=False)
            if table.dtype != np.uint64 or table.ndim != 2 or len(table) != 2:
                raise ValueError(f"{table.dtype}{list(table.shape)}, not uint64 [2, n]")
            return Items(table[0].astype(np.int64), table[1])


@dataclass(frozen=True)
class AdaptRows:
    """Labelled images, divided for training.

    Attributes:
        labels: of the whole sample table, -1 where unknown.
        names: of the classes.
        split: labelled rows, those to train and to validate on with an image.
        excluded: rows of the split that were left out, by reason.
        samples: of the rows to train and to validate on, by row.
        items: what was read of them.
    """

    labels: NDArray[np.int32]
    names: tuple[str, ...]
    split: Split
    excluded: dict[str, int]
    samples: Mapping[int, Sample]
    items: Items

    def ids(self) -> Iterator[str]:
        """Yield the ids of all rows that the training sees."""
        return (row["id"] for row in self.samples.values())

    def images(self) -> Digests:
        """Return the digests of their images' bytes, in the same order."""
        return self.items.of(np.fromiter(self.samples, np.int64, len(self.samples)))

    def digest(self) -> Config:
        """Return what identifies the rows and labels that are trained and validated on."""
        return {
            name: {
                "rows": len(rows),
                "digest": digest_rows(np.concatenate([rows, self.labels[rows]])),
            }
            for name, rows in self._parts()
        }

    def content(self) -> Config:
        """Return what identifies the images themselves: their ids, and their bytes."""
        return {
            name: {
                "ids": digest_ids(self.samples[row]["id"] for row in rows.tolist()),
                "images": digest_array(self.items.of(rows)),
            }
            for name, rows in self._parts()
        }

    def _parts(self) -> Iterator[tuple[str, Rows]]:
        yield "train", self.split.train
        yield "validation", self.split.validation


def find_rows(store: Store, options: AdaptOptions, read: Items | None, reader: Reader) -> AdaptRows:
    """Choose the rows to train on, as `fungi train-loff` does with the same settings.

    Args:
        store: the store.
        options: with the split's settings.
        read: what was read of the rows when the run began; None: read all of them now. No row that
            is tested on is.
        reader: of the images.

    Raises:
        UsageError: labels or splits do not serve.
    """
    samples = len(store.samples)
    usable, removed = np.ones(samples, bool), np.zeros(samples, bool)
    removed[left_out(store)] = True
    usable &= ~removed

    def divided() -> LabelledRows:
        coverage = Coverage(usable, 0, 0, removed)
        rows = labelled_rows(
            store,
            coverage,
            holdout=options.holdout,
            seed=options.rows_seed,
            group=options.group,
        )
        names = store.manifest.labels
        return with_validation(rows, names, options.validation, options.rows_seed)

    rows = divided()
    training = np.sort(np.concatenate([rows.split.train, rows.split.validation]))
    items = reader.read_all(store, training) if read is None else read
    usable[items.failed] = False
    rows = divided()
    kept = np.sort(np.concatenate([rows.split.train, rows.split.validation]))
    known = {int(row["row"]): row for row in store.samples.take(kept)}
    return AdaptRows(rows.labels, store.manifest.labels, rows.split, rows.excluded, known, items)


@dataclass(frozen=True)
class Reader:
    """Reads images in threads.

    Attributes:
        modality: reads one.
        workers: threads.
        context: its reporter is told what happens, its stop asked.
    """

    modality: Modality
    workers: int
    context: Context

    def read_all(self, store: Store, rows: Rows) -> Items:
        """Read some rows once: which have an image, and of which bytes."""
        digests = np.full(len(rows), FAILED, np.uint64)
        reporter = self.context.reporter
        reporter.begin(f"{self.modality.items} to check", len(rows))
        with ThreadPoolExecutor(self.workers, thread_name_prefix="fungi-check") as pool:
            for start in range(0, len(rows), READ_AT_ONCE):
                self.context.stop_if_asked()
                samples = store.samples.take(rows[start : start + READ_AT_ONCE])
                digests[start : start + len(samples)] = list(pool.map(self._digest, samples))
                reporter.advance(len(samples))
        reporter.end()
        return Items(rows, digests)

    def _digest(self, sample: Sample) -> int:
        try:
            return read_with_digest(self.modality, sample["root"], sample["uri"])[1]
        except ItemError:
            return FAILED

    def read(self, sample: Sample, digest: int) -> Any:
        """Return an image of the training.

        Args:
            sample: its row of the sample table.
            digest: of its bytes when the training began.

        Raises:
            MismatchError: it is another one now.
        """
        where = f"{sample['root']}/{sample['uri']}"
        try:
            item, now = read_with_digest(self.modality, sample["root"], sample["uri"])
        except ItemError as error:
            now, found = FAILED, error.what
        else:
            found = "other bytes"
        if now != digest:
            raise MismatchError(
                "an image of the training has changed since it began",
                where=where,
                expected="the bytes that it had",
                found=found,
                hint="put it back, or start anew: --restart, or another --name",
            )
        return item
