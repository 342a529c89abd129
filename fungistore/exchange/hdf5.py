"""HDF5: the contents of FUNGI's reference code, `embeddings` and `targets`, with ids and splits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fungistore.errors import UsageError
from fungistore.exchange.formats import (
    PROVENANCE,
    Block,
    Contents,
    import_h5py,
    read_provenance,
    refuse_missing_file,
    row_bytes,
)
from fungistore.exchange.named_arrays import (
    LABEL_NAMES,
    UNLABELLED,
    NamedArrays,
    refuse_unreadable,
)
from fungistore.exchange.table import ROWS, ColumnNames
from fungistore.store.durable import file_digest, publish

CHUNK_BYTES = 1_000_000


def write_hdf5(path: Path, contents: Contents, blocks: Iterable[Block]) -> None:
    """Write vectors, targets, ids and splits; the file appears whole or not at all.

    Raises:
        UsageError: h5py is not installed.
    """
    h5py = import_h5py()
    publish(path, lambda temporary: _write(h5py, temporary, contents, blocks))


def _write(h5py: Any, path: Path, contents: Contents, blocks: Iterable[Block]) -> None:
    text = h5py.string_dtype("utf-8")
    with h5py.File(path, "w") as file:
        file.attrs[PROVENANCE] = json.dumps(contents.provenance)
        columns: dict[str, Any] = {"rows": np.int64, "ids": text, "splits": text}
        if contents.label_names:
            columns["targets"] = np.uint32
            file.create_dataset(LABEL_NAMES, data=list(contents.label_names), dtype=text)
        for name, dtype in columns.items():
            file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(ROWS,))
        if contents.label_names:
            file["targets"].attrs["unlabelled"] = np.uint32(UNLABELLED)
        for name, shape in contents.shapes.items():
            size = row_bytes(shape, np.dtype(contents.dtype))
            chunks = (max(1, CHUNK_BYTES // size), *shape)
            file.create_dataset(
                name, (0, *shape), contents.dtype, maxshape=(None, *shape), chunks=chunks
            )
        for block in blocks:
            _append(file["rows"], block.samples["row"].to_numpy())
            _append(file["ids"], block.samples["id"].to_pylist())
            _append(file["splits"], block.samples["split"].fill_null("").to_pylist())
            if contents.label_names:
                labels = block.samples["label"].cast(pa.int64()).fill_null(UNLABELLED)
                _append(file["targets"], labels.to_numpy())
            for name, vectors in block.vectors.items():
                _append(file[name], vectors)


def _append(dataset: Any, values: Any) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


class Hdf5File(NamedArrays):
    """Features in an HDF5 file; see `NamedArrays`.

    Args:
        path: the file.
        key: the data set of the features; default: "embeddings", or the only one that can be.
        feature: what they are imported as; None: not said.
        names: the data sets that say what the rows are.

    Raises:
        UsageError: h5py is not installed, the file is none, or has no such data set.
    """

    def __init__(
        self, path: Path, key: str | None, feature: str | None, names: ColumnNames
    ) -> None:
        refuse_missing_file(path)
        h5py = import_h5py()
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise refuse_unreadable(path, "HDF5", error) from error
        try:
            sets = _data_sets(self._file, h5py.Dataset)
            for name, data in sets.items():
                _refuse_other_files(path, name, data)
            provenance = read_provenance(path, self._file.attrs.get(PROVENANCE))
            super().__init__(path, sets, key, feature, names, _words, provenance)
        except BaseException:
            self._file.close()
            raise

    def content(self) -> str:
        """Return a digest of the whole file."""
        return file_digest(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _words(data: Any, start: int, stop: int) -> list[str | None]:
    words: list[str | None] = data.asstr()[start:stop].tolist()
    return words


def _data_sets(file: Any, kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, kind):
            found[name] = item

    file.visititems(visit)
    return found


def _refuse_other_files(path: Path, name: str, data: Any) -> None:
    """Refuse a data set whose values are in other files: any file of this machine's, that is."""
    if data.is_virtual or data.external:
        raise UsageError(
            "a data set takes its values from other files",
            where=f"{path}, data set {name}",
            expected="data sets that are in the file itself",
            found="a virtual data set" if data.is_virtual else "external storage",
            hint="copy it into one file: h5repack, or h5py's create_dataset(name, data=old[:])",
        )
