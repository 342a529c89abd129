"""Copies of metadata in zarr's groups, which other programs make and believe, and we do not."""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.fingerprint import Config
from fungistore.store.chunks import METADATA
from fungistore.store.folder import Folder
from fungistore.store.groups import CONSOLIDATED, groups_above, read_metadata, without_copies
from fungistore.store.store import Store
from fungistore.store.units import FEATURES
from fungistore.verification.arrays import StoredArrays
from fungistore.verification.findings import Finding, Remedy


def check_copies(store: Store, arrays: StoredArrays) -> Iterator[Finding]:
    """Compare consolidated metadata with what they are copies of."""
    features = store.folder(FEATURES)
    names = sorted({*arrays.fingerprints, *arrays.lost})
    for group in dict.fromkeys(group for name in names for group in groups_above(features, name)):
        document = read_metadata(group)
        if document is None or not document.get(CONSOLIDATED):
            continue
        below = group.key.removeprefix(FEATURES).removeprefix("/")
        prefix = f"{below}/" if below else ""
        mine = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if stale := _stale(group, document, mine):
            key = group.key_of(METADATA)
            yield Finding(
                "metadata-stale",
                key,
                f"{CONSOLIDATED} that are copies of what is there",
                f"others of {', '.join(stale)}: plain zarr reads these as they were",
                "warning",
                Remedy("taken out", write=((key, without_copies(document)),)),
            )


def _stale(group: Folder, document: Config, names: list[str]) -> list[str]:
    """Return the arrays whose metadata in a group's copies are not their own."""
    copies = document[CONSOLIDATED]
    copies = copies.get("metadata") if isinstance(copies, dict) else None
    copies = copies if isinstance(copies, dict) else {}
    known = [name for name, copy in copies.items() if not _is_group(copy)]
    every = sorted({*names, *known})
    return [name for name in every if copies.get(name) != read_metadata(group.at(name))]


def _is_group(copy: object) -> bool:
    return isinstance(copy, dict) and copy.get("node_type") == "group"
