"""`--adapter`: a name is of an adaptation in the store, anything with a separator is a folder."""

from __future__ import annotations

from pathlib import Path

from fungistore.backbones.adapters.adaptation import (
    ADAPTATIONS,
    CONFIG,
    Adaptation,
    adaptation_names,
    read_adaptation,
)
from fungistore.errors import UsageError, did_you_mean
from fungistore.store.backend import StorePlace, open_backend
from fungistore.store.folder import Folder


def find_adaptation(adapter: str | None, place: StorePlace | None) -> Adaptation | None:
    """Return the adaptation that `--adapter` means; None where none is meant.

    Args:
        adapter: its name in the store, or a folder's path; of a folder that is gone, the store's
            of that name counts.
        place: of the store, which may not be there yet; None: there is none.

    Raises:
        UsageError: there is no such adaptation, or it is not trained yet.
        StoreError: it is damaged.
    """
    if adapter is None:
        return None
    name = Path(adapter).name
    store = Folder(open_backend(place)) if place is not None else None
    is_folder = adapter != name
    if is_folder and Path(adapter).is_dir():
        return read_adaptation(adapter)
    if store is not None and store.at(ADAPTATIONS, name).has(CONFIG):
        return read_adaptation(store.at(ADAPTATIONS, name))
    known = [] if store is None else adaptation_names(store)
    here = "" if store is None else f" of {store.where()}"
    hint = "fungi adapt trains one"
    if not is_folder and Path(adapter).is_dir():
        hint = f"--adapter ./{name}, if the folder here is meant"
    raise UsageError(
        "there is no such adaptation",
        where=f"--adapter {adapter}",
        expected=" or ".join(known) or "a folder that fungi adapt has written",
        found="no such folder" if is_folder else f"none{here} is called so",
        hint=did_you_mean(name, known) or hint,
    )
