"""A store's arrays as zarr opens them: by their metadata, which may be read already."""

from __future__ import annotations

from shlex import quote
from typing import Any

import zarr
from zarr import AsyncArray
from zarr.storage import StorePath

from fungistore.fingerprint import Config
from fungistore.store.chunks import METADATA
from fungistore.store.disk_errors import damage_explained
from fungistore.store.folder import Folder
from fungistore.store.groups import OURS


def open_array(folder: Folder, metadata: Config | None = None) -> zarr.Array[Any]:
    """Open an array of ours to read it.

    Args:
        folder: where it is.
        metadata: zarr's, where they have just been read.

    Raises:
        StoreError: they are missing or damaged, or those of another program.
    """
    command = f"fungi verify {quote(folder.backend.where)} --repair"
    hint = f"{command} writes them anew where it can"
    with damage_explained("an array's metadata are damaged", folder.where(METADATA), hint):
        store = folder.backend.zarr()
        if metadata is None:
            array = zarr.open_array(store, path=folder.key, mode="r", zarr_format=3)
        else:
            path = StorePath(store, folder.key)
            array = zarr.Array(AsyncArray(metadata, path))  # type: ignore[call-overload]
        if not array.attrs.keys() >= OURS:
            raise ValueError("an array of another program")
    return array
