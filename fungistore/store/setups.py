"""Setups: a configuration and everything random or derived that goes with it, frozen.

A setup is a folder named by the fingerprint of its configuration. Its configuration is written
last, so the setup is there whole or not at all; from then on it never changes. Arrays, indexes and
heads refer to it by that name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from fungistore.errors import StoreError
from fungistore.fingerprint import Config, digest_bytes, fingerprint
from fungistore.names import is_file_name
from fungistore.store.documents import encode_document, read_document
from fungistore.store.folder import Folder

SETUPS = "setups"
CONFIG = "config.json"
OPTIONS = "options.json"  # of what was extracted
CHECKSUMS = "checksums.json"  # of the other files of a setup, by name
DAMAGED = "a setup is missing or damaged"


class Setups:
    """The setups of a store.

    Args:
        folder: where they are; it may not be there yet.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def names(self) -> tuple[str, ...]:
        """Return the fingerprints of the setups that are there, also of those without `has`."""
        return self._folder.list().folders

    def folder(self, key: str) -> Folder:
        """Return where a setup is, or would be."""
        return self._folder.at(key)

    def has(self, key: str) -> bool:
        """Whether a setup was frozen."""
        return self._folder.at(key).has(CONFIG)

    def config(self, key: str) -> Config:
        """Return the resolved configuration that a fingerprint stands for.

        Raises:
            StoreError: it is missing or damaged.
        """
        return self.document(key, CONFIG)

    def document(self, key: str, name: str) -> Config:
        """Return a JSON file of a setup.

        Raises:
            StoreError: it is missing or damaged.
        """
        self._refuse_foreign(key)
        return read_document(self._folder.at(key), name, DAMAGED)

    def tensors(self, key: str, name: str) -> dict[str, NDArray[Any]]:
        """Return a setup's frozen tensors.

        Raises:
            StoreError: they are missing or damaged.
        """
        self._refuse_foreign(key)
        folder, file = self._folder.at(key), f"{name}.safetensors"
        try:
            tensors: dict[str, NDArray[Any]] = load_file(folder.local_path(file))
        except Exception as error:  # safetensors raises its own type and OSError alike
            raise StoreError(DAMAGED, where=folder.where(file), found=error) from error
        return tensors

    def freeze(
        self,
        config: Config,
        tensors: Mapping[str, Mapping[str, NDArray[Any]]],
        documents: Mapping[str, Config],
    ) -> None:
        """Store a configuration and what goes with it, all or nothing; once is enough.

        Args:
            config: what the fingerprint is of.
            tensors: named arrays by file name, such as {"tensors": {"projection.weight": ...}}.
            documents: further JSON files by name, such as the options that led to `config`.
        """
        key = fingerprint(config)
        folder = self._folder.at(key)
        if self.has(key):
            return
        files = {f"{name}.json": encode_document(found) for name, found in documents.items()}
        for name, arrays in tensors.items():
            contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
            files[f"{name}.safetensors"] = save(contiguous)
        files[CONFIG] = encode_document(config)
        checksums = {name: digest_bytes(data) for name, data in files.items()}
        files = {CHECKSUMS: encode_document(checksums)} | files
        with folder.backend.claims.moment():  # another feature set may freeze the same setup
            if self.has(key):
                return
            for name, data in files.items():  # the configuration last
                folder.publish(name, data)

    def keep(self, used: Collection[str]) -> None:
        """Delete all setups but these."""
        for key in self.names():
            if key not in used:
                self._folder.at(key).remove(CONFIG)
                self._folder.remove(key)

    def _refuse_foreign(self, key: str) -> None:
        """Raise StoreError for a fingerprint that would lead out of the setups' folder."""
        if not is_file_name(key):
            found = f"{key!r} is no fingerprint"
            raise StoreError(DAMAGED, where=self._folder.where(), found=found)
