"""What the workers of a run leave for each other: tensors in a folder of the store that goes again.

Each object begins with a digest of the rest, so that what is read is what was written. A folder
whose run has ended otherwise stays for the same run to continue, or for a sweep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fungistore.errors import StoreError
from fungistore.store.backend import Backend
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.folder import Folder

WORK = ".work"
DIGEST_BYTES = 16

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Scratch:
    """The folder of one run.

    Attributes:
        folder: where it is.
    """

    folder: Folder

    @classmethod
    def of(cls, backend: Backend, name: str) -> Scratch:
        """Return the folder of a run of some name, which says what the run is to give."""
        return cls(Folder(backend).at(WORK, name))

    def write(self, name: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Let an object appear whole, durably."""
        data = save({key: np.asarray(value, order="C") for key, value in tensors.items()})
        self.folder.publish(name, _digest(data), data)

    def read(self, name: str) -> Tensors:
        """Return an object's tensors.

        Raises:
            StoreError: it is missing, or damaged.
        """
        try:
            data = memoryview(self.folder.read(name))
            if data[:DIGEST_BYTES] != _digest(data[DIGEST_BYTES:]):
                raise ValueError("its digest is another")
            return load(data[DIGEST_BYTES:].tobytes())
        except (OSError, ValueError, SafetensorError) as error:
            raise_unreadable(error)
            raise StoreError(
                "what a worker has left is missing or damaged",
                where=self.folder.where(name),
                found=error,
                hint="run the same command again: it is made once more",
            ) from error

    def holds(self, name: str) -> bool:
        """Whether an object is there, and whole."""
        if not self.folder.has(name):
            return False
        try:
            self.read(name)
        except StoreError:
            return False
        return True

    def remove(self) -> None:
        """Remove everything."""
        self.folder.remove()


def abandoned_work(backend: Backend, keep: str = "") -> list[str]:
    """Return the keys of what runs that have ended left, but for that of one name.

    Args:
        backend: of a store that nobody else writes into.
        keep: name of the run that goes on.
    """
    return [f"{WORK}/{name}" for name in backend.list(WORK).folders if name != keep]


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
