"""The zarr groups above the arrays of a store: what is in them, and what others write there.

`zarr.consolidate_metadata`, as xarray calls it, puts a copy of all metadata below a group into the
group's own. Whoever opens the group believes the copy, so it must go before an array changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from fungistore.fingerprint import Config
from fungistore.names import CHUNKS
from fungistore.store.chunks import METADATA, UNIT_NAME
from fungistore.store.disk_errors import damage_explained, raise_unreadable
from fungistore.store.folder import Folder

GROUP = json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"}, indent=2).encode()
CONSOLIDATED = "consolidated_metadata"
OURS = frozenset(("fingerprint", "codec"))  # attributes of an array


def ready_groups(features: Folder, name: str) -> None:
    """Make the groups above an array, without copies in them; call it before the array changes.

    Args:
        features: the folder of all arrays.
        name: of the array in it.
    """
    for group in groups_above(features, name):
        if not group.has(METADATA):
            group.publish(METADATA, GROUP)
        elif CONSOLIDATED in (document := read_metadata(group) or {}):
            group.publish(METADATA, without_copies(document))


def groups_above(features: Folder, name: str) -> Iterator[Folder]:
    """Yield the groups that an array is in, the outermost first."""
    for parent in reversed(PurePosixPath(name).parents):
        yield features.at(*parent.parts)


def array_names(folder: Folder) -> list[str]:
    """Return the arrays below a zarr group, sorted, by their path in it; see `array_metadata`."""
    return list(array_metadata(folder))


def array_metadata(folder: Folder) -> dict[str, Config]:
    """Return zarr's metadata of the arrays below a group, sorted, by their path in it.

    Reads the metadata files alone: what a kill leaves beside them is passed over in silence, as
    are the arrays of other programs.

    Raises:
        StoreError: metadata are damaged.
    """
    with folder.backend.once():
        return dict(sorted(_metadata_below(folder)))


def _metadata_below(folder: Folder) -> Iterator[tuple[str, Config]]:
    listing = folder.list()
    if METADATA in listing.files:
        with damage_explained("zarr metadata are damaged", folder.where(METADATA)):
            document = json.loads(folder.read(METADATA))
            is_array = document["node_type"] == "array"
        if is_array:  # the folders below it are chunks
            if not is_of_another(document):
                yield "", document
            return
    below = [folder.at(name) for name in listing.folders]
    for one in below:
        one.soon("read", METADATA)
        one.soon("list")
    for one in below:
        for path, document in _metadata_below(one):
            yield f"{one.name}/{path}".rstrip("/"), document


def is_of_another(document: Config | None) -> bool:
    """Whether metadata are an array's that another program made: ours have attributes."""
    if not document or document.get("node_type") != "array":
        return False
    attributes = document.get("attributes", {})
    return isinstance(attributes, dict) and not OURS & attributes.keys()


def has_chunks(folder: Folder) -> bool:
    """Whether a folder without metadata has what an array's chunks are; a PCA may be named so."""
    listing = folder.list(CHUNKS)
    names = (*listing.files, *listing.folders)
    return METADATA not in names and any(UNIT_NAME.fullmatch(name) for name in names)


def read_metadata(folder: Folder) -> Config | None:
    """Return zarr's metadata of a group or an array, None where they are missing or damaged.

    Raises:
        OSError: they cannot be read.
    """
    try:
        document = json.loads(folder.read(METADATA))
    except (OSError, ValueError, RecursionError) as error:
        raise_unreadable(error)
        return None
    return document if isinstance(document, dict) else None


def without_copies(document: Config) -> bytes:
    """Return a group's metadata as they were before another program put copies into them."""
    kept = {key: value for key, value in document.items() if key != CONSOLIDATED}
    return json.dumps(kept, indent=2).encode()
