"""Where the heads of a store are."""

from __future__ import annotations

from fungistore.store.store import Store
from fungistore.training.run_folder import CONFIG, RunFolder

HEADS = "heads"
TABLES = ("options", "head", "inputs", "rows")  # of a configuration


def head_run(store: Store, feature_set: str, name: str) -> RunFolder:
    """Return the folder of a head, heads/<feature set>/<name>."""
    return RunFolder(store.folder(HEADS, feature_set, name), "head", TABLES)


def head_names(store: Store, feature_set: str) -> list[str]:
    """Return the names of the heads of a feature set."""
    heads = store.folder(HEADS, feature_set).below()
    return [folder.name for folder in heads if folder.has(CONFIG)]
