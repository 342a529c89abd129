"""Setups: a configuration and everything random or derived that goes with it, frozen.

A setup is a folder named by the fingerprint of its configuration. Its configuration is written
last, so the setup is there whole or not at all; from then on it never changes. Arrays, indexes and
heads refer to it by that name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from fungistore.errors import StoreError
from fungistore.fingerprint import (
    Config,
    digest_array,
    digest_bytes,
    fingerprint,
    is_fingerprint,
)
from fungistore.names import is_file_name
from fungistore.store.disk_errors import damage_explained
from fungistore.store.documents import encode_document, read_document
from fungistore.store.folder import Folder
from fungistore.store.item_digests import UNKNOWN, Digests
from fungistore.store.references import reference

SETUPS = "setups"
CONFIG = "config.json"
OPTIONS = "options.json"  # of what was extracted
MADE = "made.json"  # versions and digests that are no settings
BANK, BANK_FILE = "bank", "bank."  # a bank's tensor, and the start of its file's name
LATENTS = "latents."  # the start of the names of what a bank is made of, while it is made
SEEN, SEEN_IMAGES, SEEN_FILE = "rows", "images", "seen"  # that an adapted encoder was trained on
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
        return tuple(filter(is_fingerprint, self._folder.list().folders))

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

    def soon(self, keys: Iterable[str]) -> None:
        """Begin to read configurations, within the backend's `once`."""
        self._folder.soon("read", *(f"{key}/{CONFIG}" for key in keys if is_fingerprint(key)))

    def document(self, key: str, name: str) -> Config:
        """Return a JSON file of a setup.

        Raises:
            StoreError: it is missing or damaged.
        """
        self._refuse_foreign(key)
        return read_document(self._folder.at(key), name, DAMAGED)

    def made(self, key: str) -> Config:
        """Return what is recorded beside a configuration, {} where nothing is.

        Raises:
            StoreError: it is damaged.
        """
        return self.document(key, MADE) if self._folder.at(key).has(MADE) else {}

    def banks(self, key: str) -> dict[str, str]:
        """Return the digest of each bank of a setup by its name.

        Raises:
            StoreError: it is damaged.
        """
        self._refuse_foreign(key)
        folder = self._folder.at(key)
        with folder.backend.once():
            folder.soon("read", MADE)
            folder.soon("list")
            recorded: dict[str, str] | None = self.made(key).get("banks")
            if recorded is not None:
                return recorded
            files = [file.removesuffix(".safetensors") for file in folder.list().files]
        names = [file for file in files if file.startswith(BANK_FILE)]
        return {n.removeprefix(BANK_FILE): digest_array(self.tensors(key, n)[BANK]) for n in names}

    def bank(self, key: str, name: str) -> NDArray[Any]:
        """Return a bank of a setup.

        Raises:
            StoreError: it is missing or damaged.
        """
        bank: NDArray[Any] = self.tensors(key, BANK_FILE + name)[BANK]
        recorded = self.banks(key).get(name)
        if recorded != (found := digest_array(bank)):
            where = self._folder.at(key).where(f"{BANK_FILE}{name}.safetensors")
            raise StoreError(DAMAGED, where=where, expected=f"digest {recorded}", found=found)
        return bank

    def seen(self, key: str) -> tuple[NDArray[np.uint64], Digests] | None:
        """Return the rows that a setup's encoder was trained or chosen on; None: it was not here.

        They are ascending hashes of their ids [n], and digests of their images [n].

        Raises:
            StoreError: they are missing or damaged.
        """
        backbone = self.config(key).get("backbone")
        if not isinstance(backbone, dict) or "adapter" not in backbone:
            return None
        with damage_explained(DAMAGED, self._folder.at(key).where(f"{SEEN_FILE}.safetensors")):
            stored = self.tensors(key, SEEN_FILE)
            rows = stored[SEEN]
            return rows, stored.get(SEEN_IMAGES, np.full_like(rows, UNKNOWN))

    def reference(self, key: str) -> str:
        """Return how artefacts refer to the arrays of a setup: by it, and by its banks.

        Raises:
            StoreError: it is damaged.
        """
        return reference(key, self.banks(key))

    def tensors(self, key: str, name: str) -> dict[str, NDArray[Any]]:
        """Return a setup's frozen tensors.

        Raises:
            StoreError: they are missing or damaged.
        """
        self._refuse_foreign(key)
        folder, file = self._folder.at(key), f"{name}.safetensors"
        with damage_explained(DAMAGED, folder.where(file)):
            path = folder.local_path(file)
            path.open("rb").close()  # safetensors takes all that it cannot open for missing
            tensors: dict[str, NDArray[Any]] = load_file(path)
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
        files = encode_setup(config, tensors, documents)
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


def encode_setup(
    config: Config,
    tensors: Mapping[str, Mapping[str, NDArray[Any]]],
    documents: Mapping[str, Config],
) -> dict[str, bytes]:
    """Return a setup's files by name, the configuration last; the arguments are `freeze`'s."""
    files = {f"{name}.json": encode_document(found) for name, found in documents.items()}
    for name, arrays in tensors.items():
        contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        files[f"{name}.safetensors"] = save(contiguous)
    files[CONFIG] = encode_document(config)
    checksums = {name: digest_bytes(data) for name, data in files.items()}
    return {CHECKSUMS: encode_document(checksums)} | files
