"""Rows whose file is gone from their source: a list beside the table, which nothing renumbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fungistore.store.disk_errors import damage_explained
from fungistore.store.folder import Folder
from fungistore.store.samples import Rows

if TYPE_CHECKING:
    from fungistore.store.store import Store

REMOVED = "removed.parquet"


GONE = "rows whose file is gone from the source"


def left_out(store: Store) -> Rows:
    """Return the rows that evaluations, indexes and training leave out; none where all are kept."""
    return np.zeros(0, np.int64) if store.keep_removed else read_removed(store.folder())


def read_removed(folder: Folder) -> Rows:
    """Return the rows, ascending.

    Args:
        folder: the store's.

    Raises:
        StoreError: the list is damaged.
    """
    if not folder.has(REMOVED):
        return np.zeros(0, np.int64)
    what = "the list of rows whose file is gone is damaged"
    hint = "remove it: the next fungi extract makes it again"
    with damage_explained(what, folder.where(REMOVED), hint):
        rows: Rows = pq.read_table(folder.local_path(REMOVED))["row"].to_numpy()
        return rows.astype(np.int64)


def write_removed(folder: Folder, rows: Rows) -> None:
    """Replace the list by some rows, ascending."""
    if not len(rows):
        folder.remove(REMOVED)
        return

    def write(path: Path) -> None:
        pq.write_table(pa.table({"row": pa.array(rows, pa.int64())}), path)

    folder.publish_file(REMOVED, write)
