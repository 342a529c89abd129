"""What the three file formats have in common: their names, what is written, how one is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.exchange.options import Format
from fungistore.extras import install_command
from fungistore.fingerprint import Config
from fungistore.sources.advice import FIND, path_hint

SUFFIXES: Mapping[str, Format] = MappingProxyType(
    {".npy": "npy", ".parquet": "parquet", ".h5": "hdf5", ".hdf5": "hdf5"}
)
VECTORS = "embeddings"  # what the vectors are called unless they are several, as in the reference
PROVENANCE = "fungi"  # the metadata key, or attribute, that says where a file comes from
READ_BYTES = 16_000_000  # of a file that are read at once
KEYS_SHOWN = 12
SAMPLE_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("split", pa.string()),
    ]
)

Matrix = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Contents:
    """What a file is going to hold.

    Attributes:
        widths: the width of each matrix by its name.
        dtype: of the vectors, "float32" or "float16".
        label_names: class names in the order of their numbers.
        provenance: where the vectors come from.
    """

    widths: Mapping[str, int]
    dtype: str
    label_names: tuple[str, ...]
    provenance: Config


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file: samples as in `SAMPLE_SCHEMA`, and each matrix's [n, width]."""

    samples: pa.Table
    vectors: Mapping[str, Matrix]


class VectorFile(Protocol):
    """An open file with one matrix of vectors and, perhaps, words about its rows.

    Attributes:
        path: the file.
        key: what the matrix is called in it; "" where it has no name.
        rows, dim, dtype: of the matrix.
        has_samples: whether `samples` has something to say.
        provenance: what an export wrote about it, {} for other files.
        is_random_access: whether `take` works, at the cost of the rows alone.
    """

    path: Path
    key: str
    rows: int
    dim: int
    dtype: np.dtype[Any]
    has_samples: bool
    provenance: Config
    is_random_access: bool

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows [start, stop); cheapest where calls go forward."""

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """Return some rows, in the order asked for."""

    def samples(self) -> Iterator[pa.Table]:
        """Yield columns of text about the rows, as `fungistore.exchange.table.texts` gives them."""

    def content(self) -> str:
        """Return a digest of the bytes that the vectors are read from."""

    def close(self) -> None:
        """Close the file."""


def format_of(path: Path, named: Format | None) -> Format:
    """Return the format that was named, or that the file's suffix stands for.

    Raises:
        UsageError: the suffix stands for none.
    """
    found = named or SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            "the file's name does not tell its format",
            where=path,
            expected=f"a name that ends in {', '.join(SUFFIXES)}",
            found=path.suffix or "no suffix",
            hint="name the format with --format npy, parquet or hdf5",
        )
    return found


def import_h5py() -> Any:
    """Return the module h5py, which is an extra of the package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError(
            "HDF5 files need the package h5py",
            found=error,
            hint=install_command("hdf5", "h5py"),
        ) from error
    return h5py


def rows_at_once(row_bytes: int) -> int:
    """Return how many rows to read at a time, so that memory is bounded."""
    return max(1, READ_BYTES // max(1, row_bytes))


def refuse_matrix(where: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise UsageError unless a shape and type are those of vectors: [n, d], floating point."""
    if dtype.hasobject:
        raise UsageError(
            "the array holds Python objects, which only pickle could read",
            where=where,
            expected="numbers: float16, float32 or float64",
            found=f"dtype {dtype}",
            hint="save it again with np.save(FILE, np.stack(vectors).astype('float32'))",
        )
    # numpy's float128 and bfloat16 stand-ins are not among the types that every reader knows
    is_floating = dtype.kind == "f" and dtype.itemsize in (2, 4, 8)
    if len(shape) != 2 or 0 in shape or not is_floating:
        raise UsageError(
            "this is not a matrix of vectors",
            where=where,
            expected="[rows, width], neither 0, of float16, float32 or float64",
            found=f"shape {list(shape)}, dtype {dtype}",
            hint=_matrix_hint(shape, is_floating=is_floating),
        )


def _matrix_hint(shape: tuple[int, ...], *, is_floating: bool) -> str | None:
    if not is_floating and len(shape) == 2:
        return "array.astype('float32'); of quantised vectors after their scale was put back"
    if len(shape) != 2:
        return "one row a sample; for other shapes: array.reshape(len(array), -1)"
    return None


def refuse_missing_file(path: Path) -> None:
    """Raise UsageError unless `path` is a file."""
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        hint = path_hint(str(path)) or (
            "name the files in it: FOLDER/*.npy" if path.is_dir() else FIND
        )
        raise UsageError(
            "there is no such file", where=path, expected="a file", found=found, hint=hint
        )
