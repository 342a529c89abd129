"""Where the adaptations of a store are."""

from __future__ import annotations

from fungistore.backbones.adapters.adaptation import ADAPTATIONS
from fungistore.store.store import Store
from fungistore.training.run_folder import RunFolder

TABLES = ("adapter", "backbone", "options", "rows", "data", "split")  # of a configuration


def adaptation_run(store: Store, name: str) -> RunFolder:
    """Return the folder of an adaptation, adaptations/<name>."""
    return RunFolder(store.folder(ADAPTATIONS, name), "adaptation", TABLES)
