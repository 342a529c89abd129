"""zarr: an array, or a group of arrays, of version 2 or 3, in a folder."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from fungistore.errors import UsageError
from fungistore.exchange.formats import refuse_missing_file
from fungistore.exchange.named_arrays import NamedArrays, refuse_unreadable
from fungistore.exchange.table import ColumnNames
from fungistore.quantities import counted
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.durable import file_digest

OWN_FOLDER = "; of a group, the folder of one array can be named, with --format zarr"


class ZarrFolder(NamedArrays):
    """Features in a zarr folder; see `NamedArrays`.

    Args:
        path: the folder, of an array or a group.
        key: the array in the group; default: "embeddings", or the only one that can be.
        feature: what the array is imported as; None: not said.
        names: the arrays that say what the rows are.

    Raises:
        UsageError: the folder is none, or has no such array.
    """

    def __init__(
        self, path: Path, key: str | None, feature: str | None, names: ColumnNames
    ) -> None:
        if not path.is_dir():
            refuse_missing_file(path)
            raise refuse_unreadable(path, "zarr", ValueError("a file: zarr arrays are folders"))
        _refuse_links(path)
        try:
            with warnings.catch_warnings(action="ignore"):  # of types without a specification
                opened = zarr.open(path, mode="r")
                sets = {"": opened} if isinstance(opened, zarr.Array) else _members(opened)
        except Exception as error:  # zarr has errors of its own; JSON, codecs and types have theirs
            raise_unreadable(error)
            raise refuse_unreadable(path, "zarr", error, OWN_FOLDER) from error
        if "" in sets and key is not None:
            raise UsageError(
                "the folder is one array, which has no name",
                where="--key",
                found=key,
                hint="leave out --key",
            )
        for name, data in sets.items():
            _refuse_pickles(path, name, data)
        super().__init__(path, sets, "" if "" in sets else key, feature, names, _words, {})
        self._array = sets[self.key]
        if missing := self._array.nchunks - self._array.nchunks_initialized:
            self.remark = (
                f"{path}: {missing} of {counted(self._array.nchunks, 'chunk')} are not there; "
                f"zarr reads them as {self._array.fill_value}: after a cut copy, copy again"
            )

    def content(self) -> str:
        """Return a digest of the array's files, and of their names."""
        folder, state = self.path / self.key, hashlib.blake2b(digest_size=16)
        for file in _files(folder):
            state.update(f"{file.relative_to(folder).as_posix()}\0{file_digest(file)}\0".encode())
        return state.hexdigest()

    def close(self) -> None:
        """Do nothing: its files are opened for each read."""


def _members(group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    found = group.members(max_depth=None)
    return {name: one for name, one in sorted(found) if isinstance(one, zarr.Array)}


def _refuse_links(folder: Path) -> None:
    """Refuse a link among the files: its bytes could be those of any file of this machine."""
    for where, folders, files in os.walk(folder):
        for path in (Path(where, name) for name in [*folders, *files]):
            if path.is_symlink():
                raise UsageError(
                    "a part of the array is a link to another place",
                    where=path,
                    expected="files that are in the folder themselves",
                    hint="copy it with cp -rL",
                )


def _refuse_pickles(path: Path, name: str, array: zarr.Array[Any]) -> None:
    """Refuse an array whose chunks are pickles, which run code where they are read."""
    codecs = [*array.filters, *array.compressors, array.serializer]
    if any("pickle" in repr(codec).lower() for codec in codecs):
        raise UsageError(
            "an array is pickled: to read it could run any code",
            where=f"{path}, array {name}",
            expected="numbers, or text",
            hint="save it again as text, or leave it out of the copy",
        )


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, in an order that is always the same."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(where, name) for name in sorted(files))


def _words(array: zarr.Array[Any], start: int, stop: int) -> list[str | None]:
    """Return rows of text, which may be stored as bytes."""
    words = np.asarray(array[start:stop]).tolist()
    return [word.decode() if isinstance(word, bytes) else word for word in words]
