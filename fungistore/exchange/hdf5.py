"""HDF5: the contents of FUNGI's reference code, `embeddings` and `targets`, with ids and splits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.exchange.formats import (
    KEYS_SHOWN,
    PROVENANCE,
    VECTORS,
    Block,
    Contents,
    Matrix,
    import_h5py,
    refuse_matrix,
    refuse_missing_file,
)
from fungistore.exchange.table import ROWS, ColumnNames, texts
from fungistore.fingerprint import Config
from fungistore.store.durable import file_digest, publish

UNLABELLED = 2**32 - 1  # of `targets`, which are unsigned in the reference code
LABEL_NAMES = "label_names"
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
        for name, width in contents.widths.items():
            row_bytes = width * np.dtype(contents.dtype).itemsize
            chunks = (max(1, CHUNK_BYTES // row_bytes), width)
            file.create_dataset(
                name, (0, width), contents.dtype, maxshape=(None, width), chunks=chunks
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


class Hdf5File:
    """Vectors in an HDF5 file; see `VectorFile`.

    Args:
        path: the file.
        key: the data set of the vectors; default: "embeddings", or the only matrix of floats.
        names: the data sets that say what the rows are.

    Raises:
        UsageError: h5py is not installed, the file is none, or has no such data set.
    """

    is_random_access = False

    def __init__(self, path: Path, key: str | None, names: ColumnNames) -> None:
        refuse_missing_file(path)
        h5py = import_h5py()
        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise UsageError(
                "the file cannot be read as HDF5",
                where=path,
                found=error,
                hint="copy or save it again; of another kind, say so with --format",
            ) from error
        try:
            self._sets = _data_sets(self._file, h5py.Dataset)
            self.key = _choose(path, self._sets, key)
            self._vectors = self._sets[self.key]
            for name, data in self._sets.items():
                _refuse_other_files(path, name, data)
            refuse_matrix(f"{path}, data set {self.key}", self._vectors.shape, self._vectors.dtype)
            self.dtype = self._vectors.dtype
            self.rows, self.dim = self._vectors.shape
            columns = {name: data for name, data in self._sets.items() if data.ndim == 1}
            columns.pop(LABEL_NAMES, None)
            words = [name for name, data in columns.items() if data.dtype.kind in "OSiu"]
            self._texts = names.find(list(columns), path, words)
            self.has_samples = bool(self._texts)
            self.provenance: Config = json.loads(self._file.attrs.get(PROVENANCE, "{}"))
            self._label_names: list[str] | None = None
            if LABEL_NAMES in self._sets and self._texts.get("label") == "targets":
                self._label_names = self._sets[LABEL_NAMES].asstr()[:].tolist()
                self.provenance |= {"label_names": self._label_names}
            self._refuse_lengths()
        except BaseException:
            self._file.close()
            raise

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows [start, stop)."""
        vectors: Matrix = self._vectors[start:stop]
        return vectors

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """Return some rows: not without reading the chunks that they are in."""
        raise NotImplementedError("rows of an HDF5 file are read in order")

    def samples(self) -> Iterator[pa.Table]:
        """Yield what the one-dimensional data sets say about the rows."""
        for start in range(0, self.rows, ROWS):
            columns = {
                name: self._column(text, name, start, min(start + ROWS, self.rows))
                for text, name in self._texts.items()
            }
            yield texts(pa.table(columns), self._texts, self.path)

    def content(self) -> str:
        """Return a digest of the whole file."""
        return file_digest(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _column(self, text: str, name: str, start: int, stop: int) -> Any:
        data = self._sets[name]
        if data.dtype.kind in "OS":
            try:
                return pa.array(data.asstr()[start:stop].tolist(), pa.string())
            except (TypeError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"the {text}s are not text", where=f"{self.path}, data set {name}", found=error
                ) from error
        values = data[start:stop]
        if text != "label" or values.dtype.kind not in "iu":
            return pa.array(values)
        is_known = (values.astype(np.int64) >= 0) & (values != UNLABELLED)
        if self._label_names is None:
            return pa.array(values, mask=~is_known)
        numbers = values[is_known].astype(np.int64)
        if len(numbers) and numbers.max() >= len(self._label_names):
            raise UsageError(
                "a target has no name",
                where=f"{self.path}, data set {name}",
                expected=f"0 to {len(self._label_names) - 1}, or {UNLABELLED} for none",
                found=int(numbers.max()),
            )
        named = np.full(len(values), None, object)
        named[is_known] = np.array(self._label_names, object)[numbers]
        return pa.array(named.tolist(), pa.string())

    def _refuse_lengths(self) -> None:
        for text, name in self._texts.items():
            if len(self._sets[name]) != self.rows:
                raise UsageError(
                    f"the number of {text}s differs from the number of vectors",
                    where=f"{self.path}, data set {name}",
                    expected=self.rows,
                    found=len(self._sets[name]),
                    hint=f"name another data set with --{text}s",
                )


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


def _choose(path: Path, sets: dict[str, Any], key: str | None) -> str:
    matrices = [name for name, data in sets.items() if data.ndim == 2 and data.dtype.kind == "f"]
    if key in sets:
        return str(key)
    if key is None and VECTORS in sets:
        return VECTORS
    if key is None and len(matrices) == 1:
        return matrices[0]
    keys = [f"{name} {list(data.shape)}" for name, data in sets.items()]
    shown = ", ".join(keys[:KEYS_SHOWN]) + (", ..." if len(keys) > KEYS_SHOWN else "")
    raise UsageError(
        f"there is no data set {key!r}" if key else "the vectors cannot be chosen",
        where=path,
        expected=f"one of {', '.join(matrices)}" if matrices else "a matrix of floats",
        found=shown or "no data sets",
        hint="name it with --key",
    )
