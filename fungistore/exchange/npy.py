"""`.npy`: the array alone, and a Parquet table of its rows beside it, `NAME.samples.parquet`.

Two files cannot appear at once. The table therefore holds a digest of its matrix, so that a pair
that does not belong together is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.exchange.formats import (
    PROVENANCE,
    READ_BYTES,
    SAMPLE_SCHEMA,
    Block,
    Contents,
    Matrix,
    read_provenance,
    refuse_missing_file,
    refuse_numbers,
    row_bytes,
)
from fungistore.exchange.table import ColumnNames, read_parquet_table
from fungistore.fingerprint import Config
from fungistore.store.durable import publish

MATRIX = "fungi.matrix"  # metadata key of the matrix's digest
MAGIC = b"\x93NUMPY"
VERSIONS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def sidecar_of(path: Path) -> Path:
    """Return where the table of a matrix's rows is: beside it, with another ending."""
    return path.with_name(f"{path.name.removesuffix('.npy')}.samples.parquet")


def write_npy(path: Path, contents: Contents, blocks: Iterable[Block]) -> None:
    """Write the array and its table; each of them appears whole or not at all.

    Raises:
        UsageError: there is more than one matrix to write.
    """
    if len(contents.shapes) > 1:
        raise UsageError(
            "a .npy file holds one matrix",
            where="--separate",
            found=", ".join(contents.shapes),
            hint="leave out --separate, or export to .h5 or .parquet",
        )
    sidecar = sidecar_of(path)
    publish(sidecar, lambda table: publish(path, lambda npy: _write(npy, table, contents, blocks)))


def _write(path: Path, sidecar: Path, contents: Contents, blocks: Iterable[Block]) -> None:
    ((name, shape),) = contents.shapes.items()
    state = hashlib.blake2b(digest_size=16)
    document = contents.provenance | {"label_names": contents.label_names}
    schema = SAMPLE_SCHEMA.with_metadata({PROVENANCE: json.dumps(document)})
    rows = 0
    with path.open("wb") as file, pq.ParquetWriter(sidecar, schema, compression="zstd") as table:
        file.write(_header(rows, shape, contents.dtype))
        for block in blocks:
            data = np.ascontiguousarray(block.vectors[name]).data
            file.write(data)
            state.update(data)
            table.write_table(block.samples)
            rows += len(block.samples)
        table.add_key_value_metadata({MATRIX: state.hexdigest()})
        file.seek(0)
        file.write(_header(rows, shape, contents.dtype))


def _header(rows: int, shape: tuple[int, ...], dtype: str) -> bytes:
    """Return a header whose length does not depend on the rows: NumPy leaves them space to grow."""
    buffer = io.BytesIO()
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<")),
        "fortran_order": False,
        "shape": (rows, *shape),
    }
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


class NpyFile:
    """An array in a .npy file; see `FeatureFile`. Its samples are those of the table beside it.

    Raises:
        UsageError: the file is none, is damaged, or holds no floating-point numbers; the table
            beside it was written with another array.
    """

    key = ""
    is_random_access = True
    remark: str | None = None

    def __init__(self, path: Path, names: ColumnNames) -> None:
        refuse_missing_file(path)
        self.path = path
        self._names = names
        shape, self._fortran, self.dtype, self._offset = _read_header(path)
        refuse_numbers(path, shape, self.dtype)
        self.rows, *row_shape = shape
        self.row_shape = tuple(row_shape)
        self._bytes = self.rows * row_bytes(self.row_shape, self.dtype)
        if path.stat().st_size < self._offset + self._bytes:
            raise UsageError(
                "the file ends before its matrix does",
                where=path,
                expected=f"{self._offset + self._bytes} bytes",
                found=f"{path.stat().st_size} bytes",
                hint="copy or save it again",
            )
        self._sidecar = sidecar_of(path)
        self.has_samples = self._sidecar.is_file()
        self.provenance: Config = {}
        self._digest: str | None = None
        if self.has_samples:
            metadata = _metadata(self._sidecar)
            self.provenance = read_provenance(self._sidecar, metadata.get(PROVENANCE.encode()))
            expected = metadata.get(MATRIX.encode())
            if expected is not None and expected.decode() != self.content():
                raise UsageError(
                    "the matrix is not the one that the table beside it was written with",
                    where=self._sidecar,
                    expected=f"rows of {path.name}",
                    hint="export both again, or move the table away and name another by --table",
                )

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows [start, stop)."""
        if self._fortran:
            return self._columns(slice(start, stop), stop - start)
        return np.array(self._map()[start:stop])

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """Return some rows."""
        if self._fortran:
            return self._columns(rows, len(rows))
        return take_rows(self.path, self._offset, self.row_shape, self.dtype, rows)

    def samples(self) -> Iterator[pa.Table]:
        """Yield the rows of the table beside the matrix."""
        return read_parquet_table(self._sidecar, self._names)

    def content(self) -> str:
        """Return a digest of the matrix's bytes, whichever version wrote their header."""
        if self._digest is None:
            state = hashlib.blake2b(digest_size=16)
            left = self._bytes
            with self.path.open("rb") as file:
                file.seek(self._offset)
                while left and (data := file.read(min(left, READ_BYTES))):
                    state.update(data)
                    left -= len(data)
            self._digest = state.hexdigest()
        return self._digest

    def close(self) -> None:
        """Do nothing: the file is opened for each read."""

    def _columns(self, rows: slice | NDArray[np.int64], count: int) -> Matrix:
        """Return rows of a file in which those of a column follow each other.

        They lie all over the file: mapped at once, nearly all of it would come into memory.
        """
        found = np.empty((count, *self.row_shape), self.dtype)
        step = max(1, READ_BYTES * self.row_shape[-1] // self._bytes)
        for start in range(0, self.row_shape[-1], step):
            some = slice(start, start + step)
            found[..., some] = self._map()[rows, ..., some]
        return found

    def _map(self) -> np.memmap[Any, np.dtype[Any]]:
        # anew for each read, so that what was read does not stay in this process's memory
        order: Literal["F", "C"] = "F" if self._fortran else "C"
        shape = (self.rows, *self.row_shape)
        return np.memmap(self.path, self.dtype, "r", self._offset, shape, order)


def take_rows(
    path: Path,
    offset: int,
    row_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    rows: NDArray[np.int64],
) -> Matrix:
    """Return scattered rows of a C-order array in a file, in the order asked for.

    They are read one by one: mapped, each would bring its neighbours into this process's memory.
    """
    taken = np.empty((len(rows), *row_shape), dtype)
    size = row_bytes(row_shape, dtype)
    with path.open("rb", buffering=0) as file:
        for place in np.argsort(rows):
            file.seek(offset + int(rows[place]) * size)
            if file.readinto(taken[place].data) != size:
                raise OSError(f"{path} has become shorter")
    return taken


def _read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether columns come first, type, and where the values start."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        file.seek(0)
        try:
            version = np.lib.format.read_magic(file)
            if version not in VERSIONS:  # 3.0 is for records whose fields have odd names
                raise ValueError(f"version {version[0]}.{version[1]} of the format")
            shape, fortran, dtype = VERSIONS[version](file)
        except (ValueError, SyntaxError, TypeError) as error:
            is_archive = start.startswith(b"PK")
            raise UsageError(
                "the file cannot be read as .npy",
                where=path,
                expected="what np.save writes for one array of numbers",
                found="a zip archive, as np.savez writes" if is_archive else error,
                hint="save one array: np.save('features.npy', np.load(FILE)['NAME'])"
                if is_archive
                else "save it again with np.save",
            ) from error
        return shape, fortran, dtype, file.tell()


def _metadata(path: Path) -> dict[bytes, bytes]:
    try:
        return dict(pq.read_metadata(path).metadata or {})
    except (OSError, pa.ArrowException) as error:
        raise UsageError("the table cannot be read", where=path, found=error) from error
