"""The sample table as a data frame: every column of every part, whole paths, names of classes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fungistore.errors import UsageError
from fungistore.extras import install_command
from fungistore.location import absolute_uri, is_inline
from fungistore.remote.places import joined
from fungistore.remote.urls import is_url
from fungistore.sources.batches import CELL
from fungistore.sources.cells import ARROW, cells_as

if TYPE_CHECKING:
    import pandas as pd

    from fungistore.store.store import Store

NOTHING = pa.table(
    {
        "row": pa.array([], pa.int64()),
        **{name: pa.array([], pa.string()) for name in ("id", "path", "label", "split")},
    }
)
PLAIN = frozenset("#:%")  # in none of the uris that are paths as they stand


def require_pandas() -> Any:
    """Return pandas.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError(
            "data frames need pandas, which is not installed",
            hint=install_command("pandas", "pandas"),
        ) from error
    return pd


def sample_frame(store: Store) -> pd.DataFrame:
    """Return one row a sample; see `Store.to_pandas`."""
    pd = require_pandas()
    kinds = store.samples.columns()
    parts = []
    for part, table in store.samples.tables():
        uris = table["uri"].to_pylist()
        own: dict[str, Any] = {
            "row": table["row"],
            "id": table["id"],
            "path": pa.array([_path(part.root, uri) for uri in uris], pa.string()),
            "label": table["label"],
            "split": table["split"].cast(pa.string()),
        }
        for name, kind in kinds.items():
            stored = CELL + name in table.column_names
            cells = table[CELL + name] if stored else pa.nulls(len(table), ARROW[kind])
            own[CELL + name] = cells_as(cells.combine_chunks(), kind) if stored else cells
        parts.append(pa.table(own))
    whole = pa.concat_tables(parts) if parts else NOTHING
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    gaps = {whole.schema.field(i).type for i, c in enumerate(whole.columns) if c.null_count}
    frame = whole.to_pandas(types_mapper={k: d for k, d in nullable.items() if k in gaps}.get)
    labels = store.samples.labels()
    frame["label"] = pd.Categorical.from_codes(labels, categories=list(store.manifest.labels))
    frame.insert(4, "label_number", labels)
    failed = np.zeros(len(frame), bool)
    failed[[failure.row for failure in store.failures() if failure.row < len(frame)]] = True
    frame.insert(6, "failed", failed)
    taken = set(frame.columns)
    plain = {CELL + name: name for name in kinds if name not in taken}
    return frame.rename(columns=plain)


def _path(root: str, uri: str) -> str | None:
    if PLAIN.isdisjoint(uri) and "//" not in uri:
        return joined(root, uri) if is_url(root) else os.path.join(root, uri)
    return None if is_inline(uri) else absolute_uri(root, uri)
