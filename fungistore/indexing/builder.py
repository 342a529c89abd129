"""One build of an index: trained, filled block by block, checkpointed, its recall measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fungistore.engines.engine import Engine
from fungistore.engines.pieces import is_alone
from fungistore.errors import StoppedError, StoreError, UsageError
from fungistore.indexing.additions import Found, Workers
from fungistore.indexing.choose import (
    Choice,
    available_memory,
    choose_factory,
    training_rows,
)
from fungistore.indexing.opening import read_vectors
from fungistore.indexing.options import (
    AUTO,
    DEFAULT_METRIC,
    DEFAULT_SEED,
    DEFAULT_TARGET_RECALL,
    IndexOptions,
    default_name,
)
from fungistore.indexing.record import (
    RECORD,
    SCHEMA,
    IndexRecord,
    Recall,
    StoredFile,
    checked_file,
    crc32,
    index_folder,
    read_record,
    remove_index,
    remove_strays,
    write_record,
)
from fungistore.indexing.reference import (
    RECALL_K,
    RECALL_QUERIES,
    Reference,
    settle_effort,
)
from fungistore.indexing.refusals import refuse_changed, refuse_other
from fungistore.indexing.rows import Available, NewBlock, NewRows
from fungistore.indexing.vectors import VectorIndex
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors, open_features
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.store.backend import Listing
from fungistore.store.contents import Counts, counts_of, runs_of
from fungistore.store.folder import Folder
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows
from fungistore.store.store import Store

# Writing the whole index again and again must not take over: at most a tenth of the time.
CHECKPOINT_SHARE = 10
# A kind chosen, and centroids trained, for so many times fewer rows may no longer suit.
OUTGROWN = 4
EXACT = Recall(RECALL_K, 1.0, 0)
DIVIDED = "IVF...,Flat, IVF...,PQ... and IVF...,SQ..., also behind OPQ and PCA"


class IndexBuilder:
    """An index under construction: the record on disk, and what goes beyond it in memory."""

    def __init__(
        self,
        folder: Folder,
        record: IndexRecord,
        available: Available,
        engine: Engine,
        context: Context,
    ) -> None:
        self.record = record
        self.available = available.total
        self._folder = folder
        self._there = available
        self._matrix = available.matrix
        self._engine = engine
        self._context = context
        self._done = done_rows(record, available, folder)
        self._vectors: VectorIndex
        self._reference: Reference | None = None

    @classmethod
    def start(
        cls, store: Store, options: IndexOptions, engine: Engine, context: Context, *, restart: bool
    ) -> IndexBuilder:
        """Find or begin the index that is asked for, and say what there is to do."""
        folder, stored, matrix = find_index(store, options, restart=restart)
        available = Available.now(matrix)
        if stored is not None:
            refuse_changed(store, stored, available)
            remove_strays(folder, stored)
            builder = cls(folder, stored, available, engine, context)
            builder._read()
            target = options.target_recall
            if target not in (None, stored.target_recall):
                builder.record = replace(stored, target_recall=target, recall=None)
            builder._say_what_is_left(stored.recall is None)
            return builder
        record = _new_record(store, options, matrix, folder.name, available.total)
        builder = cls(folder, record, available, engine, context)
        builder._vectors = VectorIndex.make(record.factory, record.dim, record.metric)
        if restart and folder.list() != Listing():  # only now that a new one is possible
            context.reporter.notice(f"--restart: deleting {folder.key}")
            remove_index(folder)
        context.reporter.notice(
            f"new index {record.name}: {counted(available.total, 'row')} of {matrix.name} "
            f"({counted(record.dim, 'value')}), {record.metric}, {record.factory}: {record.reason}"
        )
        return builder

    def run(self, checkpoint_seconds: float) -> None:
        """Train where that is needed, add what is missing, and measure the recall."""
        if not self.record.files:
            self._begin()
        new = NewRows.of(self._there, self._done)
        workers = self._workers(new) if self.record.rows_done < self.available else None
        self._matrix.store.sweep(keep=workers.pieces.name if workers else "")
        if self.record.rows_done < self.available:
            self._add(new, workers, checkpoint_seconds)
        if len(returned := self._returned()):
            self._add_returned(returned)
        if self.record.recall is None:
            effort: dict[str, int] = {}
            recall: Recall | None = EXACT
            if self._reference is not None:
                effort, recall = settle_effort(
                    self._vectors, self._reference, self.record.target_recall
                )
            self.record = replace(self.record, effort=effort, recall=recall)
            write_record(self._folder, self.record)

    def _read(self) -> None:
        self._vectors = read_vectors(self._folder, self.record)
        if "reference" in self.record.files:
            path = checked_file(self._folder, self.record, "reference")
            self._reference = Reference.read(path)

    def _say_what_is_left(self, is_unfinished: bool) -> None:
        record, to_go = self.record, self.available - self.record.rows_done
        if back := len(self._returned()):
            said = counted(back, "row", "rows")
            self._context.reporter.notice(f"adding {said} whose file is there again")
        if not to_go:
            again = "" if record.recall else "; measuring its recall"
            self._context.reporter.notice(
                f"nothing to add: all {counted(self.available, 'row is', 'rows are')} done{again}"
            )
        elif is_unfinished:
            self._context.reporter.notice(
                f"resuming {record.name}: {record.rows_done}/{self.available} rows done, "
                f"{to_go} to go"
            )
        else:
            self._context.reporter.notice(
                f"adding {counted(to_go, 'new row')} to the {record.rows_done} that are in"
            )
        if self.available > OUTGROWN * record.chosen_for:
            self._context.reporter.notice(
                f"{record.factory} was chosen for {counted(record.chosen_for, 'row')}; "
                "--restart chooses and trains anew"
            )

    def _begin(self) -> None:
        """Choose the queries of the recall, train on other rows, and keep both.

        Both are drawn among the rows with usable features: of a partly matched import, most may
        have none.
        """
        record, matrix = self.record, self._matrix
        trained = 0
        if not self._vectors.is_exact:
            usable = np.flatnonzero(matrix.coverage().usable)
            count = min(RECALL_QUERIES, max(1, len(usable) // 4))
            sample = training_rows(len(usable), record.dim) if self._vectors.needs_training else 0
            sample = min(sample, len(usable) - count)
            stream = Stream(record.seed, "index", "sample")
            chosen = stream.choice(len(usable), count + sample)
            queries, sampled = (
                usable[np.sort(places)] for places in (chosen[:count], chosen[count:])
            )
            self._reference = Reference.of(*matrix.load(queries))
            if self._vectors.needs_training:
                vectors = self._load_sample(sampled)
                self._context.reporter.notice(
                    f"training {record.factory} on {counted(len(vectors), 'vector')}"
                )
                self._vectors.train(vectors)
                trained = len(vectors)
        self.record = replace(record, trained_on=trained)
        if trained:
            self._checkpoint(self._done, 0, ())

    def _load_sample(self, rows: Rows) -> Vectors:
        """Return the usable rows of the sample, filled into one array: never two copies of it."""
        vectors = np.empty((len(rows), self.record.dim), np.float32)
        count = 0
        self._context.reporter.begin("training sample", len(rows))
        for numbers, block in self._matrix.stream(rows):
            self._stop_if_asked()
            vectors[count : count + len(numbers)] = block
            count += len(numbers)
            self._context.reporter.advance(len(numbers))
        self._context.reporter.end()
        return vectors[:count]

    def _workers(self, new: NewRows) -> Workers | None:
        """Return what workers do of the new rows; None, which is said: this process does all."""
        if is_alone(self._engine):
            return None
        coder, reference = self._vectors.coder, self._reference
        if coder is None or reference is None:
            self._context.reporter.notice(
                f"{self.record.factory} is filled by this process alone: what workers can find "
                f"are the lists and codes of {DIVIDED}"
            )
            return None
        return Workers(self.record, new, coder, reference) if len(new.blocks()) > 1 else None

    def _add(self, new: NewRows, workers: Workers | None, checkpoint_seconds: float) -> None:
        done, excluded = self._done.copy(), self.record.excluded
        removed = [*self.record.removed]
        saved, pause, added = time.monotonic(), checkpoint_seconds, False
        blocks: Iterator[tuple[NewBlock, Found | None]]
        if workers is None:
            blocks = ((new.read(stretch), None) for stretch in new.blocks())
            self._context.reporter.begin("rows", self.available, done=self.record.rows_done)
        else:
            blocks, pause = workers.found(self._engine, self._context), math.inf
        for block, found in blocks:
            if self._context.stop() or time.monotonic() - saved > pause:
                writing = time.monotonic()
                if added and workers is None:  # what workers found is kept as it is
                    self._checkpoint(done, excluded, removed)
                self._stop_if_asked()
                saved, added = time.monotonic(), False
                pause = max(checkpoint_seconds, CHECKPOINT_SHARE * (saved - writing))
            self._take_in(block, found)
            excluded += block.considered - len(block.rows) - len(block.removed)
            removed += block.removed.tolist()
            new.finish(block.stretch, done)
            self._context.reporter.advance(block.considered)
            added = True
        self._context.reporter.end()
        self._checkpoint(done, excluded, removed)
        if workers is not None:
            workers.remove()

    def _take_in(self, block: NewBlock, found: Found | None) -> None:
        """Add a block of vectors, of which workers may have found codes and neighbours."""
        if found is None:
            if self._reference is not None:
                self._reference.update(block.vectors, block.rows, self.record.metric)
            self._vectors.add(block.vectors, block.rows)
        else:
            assert self._reference is not None  # all kinds with codes have queries
            self._reference.take_in(found.near)
            self._vectors.add_found(found.codes, block.rows)

    def _returned(self) -> Rows:
        """Return the rows that were left out, and whose file is there again."""
        return np.setdiff1d(self.record.removed, left_out(self._matrix.store)).astype(np.int64)

    def _add_returned(self, returned: Rows) -> None:
        for rows, vectors in self._matrix.stream(returned):
            if self._reference is not None:
                self._reference.update(vectors, rows, self.record.metric)
            self._vectors.add(vectors, rows)
        still = np.setdiff1d(self.record.removed, returned).tolist()
        done = done_rows(self.record, self._there, self._folder)
        self._checkpoint(done, self.record.excluded, still)

    def _checkpoint(self, done: Counts, excluded: int, removed: Sequence[int]) -> None:
        """Write the index as it is in memory, so that a kill from now on costs nothing before."""
        rows_done = int(done.sum())
        name = f"vectors-{rows_done}.faiss"
        checksums: list[int] = []
        self._folder.publish_file(name, lambda path: checksums.append(self._vectors.write(path)))
        files = {"vectors": StoredFile(name, self._folder.size(name), checksums[0])}
        if self._reference is not None:
            name = f"reference-{rows_done}.safetensors"
            self._folder.publish_file(name, self._reference.write)
            path = self._folder.local_path(name)
            files["reference"] = StoredFile(name, self._folder.size(name), crc32(path))
        self.record = replace(
            self.record,
            rows_done=rows_done,
            done=runs_of(done),
            vectors=self._vectors.count,
            excluded=excluded,
            removed=tuple(removed),
            contents=self._there.contents(done),
            effort={},
            recall=None,
            files=files,
        )
        write_record(self._folder, self.record)

    def _stop_if_asked(self) -> None:
        if self._context.stop():
            self._context.reporter.end()
            raise StoppedError(
                "stopped on request",
                where=f"index {self.record.name!r}",
                found=f"{self.record.rows_done}/{self.available} rows done",
                hint="run the same command again to continue",
            )


def done_rows(record: IndexRecord, available: Available, folder: Folder) -> Counts:
    """Return how many rows of each unit an index has added, or left out.

    Raises:
        StoreError: its record does not say.
    """
    units, unit_rows = len(available.counts), available.matrix.unit_rows
    done = counts_of(record.done, units)
    if record.rows_done and not record.done:  # of an older version: the first rows
        starts = unit_rows * np.arange(units)
        done = np.clip(record.rows_done - starts, 0, unit_rows)
    if done.sum() != record.rows_done:
        raise StoreError(
            "the record of an index is damaged",
            where=folder.where(RECORD),
            expected=f"{counted(record.rows_done, 'row')}",
            found=f"{counted(done.sum(), 'row')} in its units",
            hint="the same fungi index command with --restart builds it anew",
        )
    return np.pad(done, (0, units - len(done)))


def find_index(
    store: Store, options: IndexOptions, *, restart: bool
) -> tuple[Folder, IndexRecord | None, FeatureMatrix]:
    """Return the index's folder, its record where there is one, and the features it is of."""
    matrix = open_features(
        store, options.features, pca=options.pca, feature_set=options.feature_set
    )
    name = options.name or default_name(matrix.features, options.metric or DEFAULT_METRIC)
    folder = index_folder(store, matrix.feature_set, name)
    record = None if restart else read_record(folder)
    if record is not None:
        is_named = options.features is not None or options.pca is not None
        refuse_other(store, record, options, matrix.features if is_named else None)
        matrix = record.matrix(store)  # the features that it has, whatever has joined them since
    return folder, record, matrix


def _new_record(
    store: Store, options: IndexOptions, matrix: FeatureMatrix, name: str, available: int
) -> IndexRecord:
    usable = int(matrix.coverage().usable.sum())
    if not usable:
        raise UsageError(
            "there is no vector to index",
            where=f"{matrix.name} of feature set {matrix.feature_set!r}",
            expected="at least one row with usable features",
            found=f"{counted(available, 'row')}, none of them usable" if available else "no rows",
            hint="fungi extract makes features; fungi status shows what is there",
        )
    choice = Choice(options.factory or AUTO, "asked for")
    if choice.factory == AUTO:
        choice = choose_factory(usable, matrix.dim, options.memory_bytes or available_memory())
    return IndexRecord(
        schema=SCHEMA,
        store=store.manifest.id,
        feature_set=matrix.feature_set,
        name=name,
        features=matrix.features,
        dim=matrix.dim,
        metric=options.metric or DEFAULT_METRIC,
        factory=choice.factory,
        reason=choice.reason,
        seed=DEFAULT_SEED if options.seed is None else options.seed,
        target_recall=options.target_recall or DEFAULT_TARGET_RECALL,
        chosen_for=available,
        trained_on=0,
        rows_done=0,
        vectors=0,
        excluded=0,
        fingerprints=matrix.fingerprints,
        effort={},
        recall=None,
        files={},
    )
