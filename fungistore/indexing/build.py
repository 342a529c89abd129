"""`fungi index`: features in, a faiss index out; the stage from top to bottom."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungistore.engines.engine import Engine
from fungistore.engines.pieces import ALONE, is_alone
from fungistore.indexing.builder import IndexBuilder, find_index
from fungistore.indexing.options import (
    IndexOptions,
)
from fungistore.indexing.record import (
    IndexRecord,
)
from fungistore.machine.context import DEFAULT, Context
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.store import Store

CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class IndexResult:
    """What `build_index` did.

    Attributes:
        store: the store's directory.
        index: the record of the index as it is now.
        added: vectors added by this run.
        missing: rows of the sample table that have no features, or none yet.
        seconds: that it took.
    """

    store: str
    index: IndexRecord
    added: int
    missing: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the record's fields are at the top level."""
        document = asdict(self.index) | {"store": self.store, "store_id": self.index.store}
        rest = {"added": self.added, "missing": self.missing, "seconds": self.seconds}
        rest["removed"] = len(self.index.removed)
        return document | {"index": self.index.name} | rest


def build_index(
    store: str | Path,
    options: IndexOptions = IndexOptions(),
    *,
    restart: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    engine: Engine = ALONE,
    context: Context = DEFAULT,
) -> IndexResult:
    """Build an index over a store's features, continue one, or add the rows that are new.

    Args:
        store: the store's directory.
        options: what to build; default: all vector features of the only feature set, by cosine.
        restart: first delete the index of that name.
        checkpoint_seconds: the index is written at least this often, unless that would take more
            than a tenth of the time.
        engine: who finds lists, codes and the neighbours of the recall's queries: `Local()` is this
            process, `Processes(("cpu",) * 4)` four of them. The index is the same, bit for bit.
        context: its reporter is told what happens, its stop asked between blocks; True writes what
            is done and raises StoppedError.

    Raises:
        UsageError: an unknown feature, PCA or factory, too few vectors to train, or none at all.
        MismatchError: the index was made with other settings, or of other features.
        StoreError: the store or the index is damaged.
        StoppedError: `context` asked for it.
        FungiError: a full disk, or another writer.
    """
    is_alone(engine)  # or workers, but no part without the others
    began = time.perf_counter()
    store_now = Store.open(store, keep_removed=options.keep_removed)
    folder, _, _ = find_index(store_now, options, restart=restart)
    with disk_errors_explained(store_now.where), store_now.writing(folder.key) as opened:
        builder = IndexBuilder.start(opened, options, engine, context, restart=restart)
        before = builder.record.vectors
        builder.run(checkpoint_seconds)
        return IndexResult(
            store=opened.where,
            index=builder.record,
            added=builder.record.vectors - before,
            missing=len(opened.samples) - builder.available,
            seconds=time.perf_counter() - began,
        )
