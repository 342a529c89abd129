"""Setups: a configuration and everything random or derived that goes with it, frozen.

A setup is a folder named by the fingerprint of its configuration, written as a whole and never
changed. Arrays, indexes and heads refer to it by that name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from fungistore.errors import StoreError
from fungistore.fingerprint import Config, canonical_json, fingerprint
from fungistore.names import is_file_name
from fungistore.store.durable import file_digest, publish

SETUPS = "setups"
CONFIG = "config.json"
CHECKSUMS = "checksums.json"  # of the other files of a setup, by name


class Setups:
    """The setups of a store.

    Args:
        directory: where they are; it may not be there yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def has(self, key: str) -> bool:
        """Whether a setup was frozen."""
        return (self.directory / key / CONFIG).is_file()

    def config(self, key: str) -> Config:
        """Return the resolved configuration that a fingerprint stands for.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.directory / key / CONFIG
        try:
            _refuse_foreign(key)
            config: Config = json.loads(path.read_bytes())
            if not isinstance(config, dict):
                raise ValueError("a list or a value instead of named settings")
            canonical_json(config)  # refuses numbers that are none
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError("a setup is missing or damaged", where=path, found=error) from error
        return config

    def tensors(self, key: str, name: str) -> dict[str, NDArray[Any]]:
        """Return a setup's frozen tensors.

        Raises:
            StoreError: they are missing or damaged.
        """
        path = self.directory / key / f"{name}.safetensors"
        try:
            _refuse_foreign(key)
            tensors: dict[str, NDArray[Any]] = load_file(path)
        except Exception as error:  # safetensors raises its own type and OSError alike
            raise StoreError("a setup is missing or damaged", where=path, found=error) from error
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

        def write(directory: Path) -> None:
            directory.mkdir()
            for name, document in {"config": config, **documents}.items():
                text = json.dumps(document, indent=1, sort_keys=True)
                (directory / f"{name}.json").write_text(text, encoding="utf-8")
            for name, arrays in tensors.items():
                contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
                (directory / f"{name}.safetensors").write_bytes(save(contiguous))
            checksums = {path.name: file_digest(path) for path in sorted(directory.iterdir())}
            (directory / CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")

        if self.has(key):
            return
        try:
            publish(self.directory / key, write)
        except OSError:
            if not self.has(key):  # by another process in the meantime, for another set
                raise

    def keep(self, used: Collection[str]) -> None:
        """Delete all setups but these."""
        for setup in self.directory.glob("*"):
            if setup.name not in used:
                shutil.rmtree(setup)


def _refuse_foreign(key: str) -> None:
    """Raise ValueError for a fingerprint that would lead out of the setups' folder."""
    if not is_file_name(key):
        raise ValueError(f"{key!r} is no fingerprint")
