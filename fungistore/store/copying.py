"""Copies of a store's samples: what a dry run adds its source to."""

from __future__ import annotations

import shutil
from functools import partial

from fungistore.store.backend import StorePlace, open_backend
from fungistore.store.folder import Folder
from fungistore.store.removed import read_removed, write_removed
from fungistore.store.store import MANIFEST, SAMPLES, Store


def copy_samples(store: Store, where: StorePlace) -> Store:
    """Return a store at an empty place, with another one's samples and no features."""
    copy, table = open_backend(where), store.folder(SAMPLES)
    for part in store.manifest.parts:
        original = table.local_path(part.file)
        copy.publish_file(f"{SAMPLES}/{part.file}", partial(shutil.copyfile, original))
    write_removed(Folder(copy), read_removed(store.folder()))
    copy.publish(MANIFEST, store.manifest.to_json())
    return Store(copy, store.manifest)
