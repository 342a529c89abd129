"""What the file formats have in common: their names, what is written, how one is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.exchange.options import ImportFormat
from fungistore.extras import install_command
from fungistore.fingerprint import Config
from fungistore.names import NAME_RULE, is_plain_name
from fungistore.remote.urls import is_url
from fungistore.sources.advice import FIND, path_hint
from fungistore.store.feature import PATCHES

SUFFIXES: Mapping[str, ImportFormat] = MappingProxyType(
    {".npy": "npy", ".parquet": "parquet", ".h5": "hdf5", ".hdf5": "hdf5", ".zarr": "zarr"}
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
Kind = TypeVar("Kind", bound=ImportFormat)


@dataclass(frozen=True)
class Contents:
    """What a file is going to hold.

    Attributes:
        shapes: the shape of a row of each array, by the array's name.
        dtype: of the values, "float32" or "float16".
        label_names: class names in the order of their numbers.
        provenance: where the values come from.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: str
    label_names: tuple[str, ...]
    provenance: Config


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file: samples as in `SAMPLE_SCHEMA`, and each array's [n, *shape]."""

    samples: pa.Table
    vectors: Mapping[str, Matrix]


class FeatureFile(Protocol):
    """An open file with one array of features and, perhaps, words about its rows.

    Attributes:
        path: the file.
        key: what the array is called in it; "" where it has no name.
        rows: of the array.
        row_shape: of one of them: (width,) of vectors.
        dtype: of its numbers, which are floating point.
        has_samples: whether `samples` has something to say.
        provenance: what an export wrote about it, {} for other files.
        is_random_access: whether `take` works, at the cost of the rows alone.
        remark: what to know of it before its rows are trusted; None: nothing.
    """

    path: Path
    key: str
    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    has_samples: bool
    provenance: Config
    is_random_access: bool
    remark: str | None

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows [start, stop); cheapest where calls go forward."""

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """Return some rows, in the order asked for."""

    def samples(self) -> Iterator[pa.Table]:
        """Yield columns of text about the rows, as `fungistore.exchange.table.texts` gives them."""

    def content(self) -> str:
        """Return a digest of the bytes that the array is read from."""

    def close(self) -> None:
        """Close the file."""


def format_of(path: Path, named: Kind | None, formats: Sequence[Kind]) -> Kind:
    """Return the format that was named, or that the file's suffix stands for.

    Args:
        path: the file.
        named: the format; None: by the suffix.
        formats: those that it may have.

    Raises:
        UsageError: the suffix stands for none of them.
    """
    if named is not None:
        return named
    found = SUFFIXES.get(path.suffix.lower())
    for one in formats:
        if one == found:
            return one
    suffixes = [suffix for suffix, kind in SUFFIXES.items() if kind in formats]
    raise UsageError(
        "the file's name does not tell its format",
        where=path,
        expected=f"a name that ends in {', '.join(suffixes)}",
        found=path.suffix or "no suffix",
        hint=f"name the format with --format {', '.join(formats[:-1])} or {formats[-1]}",
    )


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


def read_provenance(path: Path, said: object) -> Config:
    """Return what an export wrote about a file; {} of what another program keeps by that key.

    Args:
        path: the file.
        said: JSON.

    Raises:
        UsageError: it names a feature set that leads out of the store, or classes that are no text.
    """
    try:
        found = json.loads(said) if isinstance(said, str | bytes) else None
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    name, classes = found.get("feature_set"), found.get("label_names", [])
    has_name = name is None or (isinstance(name, str) and is_plain_name(name))
    if has_name and isinstance(classes, list) and all(isinstance(one, str) for one in classes):
        return found
    raise UsageError(
        "what the file says of its export cannot be",
        where=f"{path}, {PROVENANCE}",
        expected="label_names: texts" if has_name else f"feature_set: {NAME_RULE}",
        found=repr(classes if has_name else name)[:80],
        hint="export it again; or save the array alone, without attributes or metadata",
    )


def rows_at_once(row_bytes: int) -> int:
    """Return how many rows to read at a time, so that memory is bounded."""
    return max(1, READ_BYTES // max(1, row_bytes))


def row_bytes(row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the bytes of one row."""
    return math.prod(row_shape) * dtype.itemsize


def refuse_numbers(where: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise UsageError unless an array has rows, and these are of floating-point numbers."""
    if dtype.hasobject:
        raise UsageError(
            "the array holds objects, such as texts or rows of different lengths, which in .npy "
            "only pickle could read",
            where=where,
            expected="numbers in rows of one shape: float16, float32 or float64",
            found=f"dtype {dtype}",
            hint="save it again with np.save(FILE, np.stack(rows).astype('float32')); rows of "
            "different lengths have no place in a store",
        )
    # numpy's float128 and bfloat16 stand-ins are not among the types that every reader knows
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise UsageError(
            "the numbers of the array are no floating-point numbers",
            where=where,
            expected="float16, float32 or float64",
            found=f"shape {list(shape)}, dtype {dtype}",
            hint=_numbers_hint(dtype),
        )
    if not shape or 0 in shape:
        raise UsageError(
            "the array is empty" if shape else "the array is a single number",
            where=where,
            expected="a row or more",
            found=f"shape {list(shape)}",
            hint="save it again with all its rows",
        )


def _numbers_hint(dtype: np.dtype[Any]) -> str:
    if dtype.itemsize == 2 and dtype.kind in "uiV":
        return (
            "16-bit words are bfloat16 perhaps, which NumPy has not: "
            "torch.from_numpy(array.view('int16')).view(torch.bfloat16).float().numpy()"
        )
    return "array.astype('float32'); of quantised vectors after their scale was put back"


def refuse_rank(file: FeatureFile, feature: str) -> None:
    """Raise UsageError unless the rows of a file are what a feature's are.

    Vectors come as [rows, width], patch tokens as [rows, h, w, width] or [rows, tokens, width].
    """
    found = [file.rows, *file.row_shape]
    where = f"{file.path}, {file.key}" if file.key else file.path
    if feature == PATCHES and len(found) not in (3, 4):
        raise UsageError(
            "these are no patch tokens",
            where=where,
            expected="[rows, h, w, width] or [rows, tokens, width]",
            found=f"shape {found}",
            hint=f"without --as {PATCHES}, [rows, width] are vectors",
        )
    if feature != PATCHES and len(found) != 2:
        is_tokens = len(found) in (3, 4)
        hint = "one row a sample; for other shapes: array.reshape(len(array), -1)"
        raise UsageError(
            "this is not a matrix of vectors",
            where=where,
            expected="[rows, width]",
            found=f"shape {found}",
            hint=f"--as {PATCHES}, if a row is the patch tokens of a sample" if is_tokens else hint,
        )


def refuse_missing_file(path: Path) -> None:
    """Raise UsageError unless `path` is a file."""
    if not path.is_file():
        found = "a directory" if path.is_dir() else "nothing"
        address = re.sub(r"^([a-z0-9]{2,}):/", r"\1://", str(path))  # a Path has one slash of two
        hint = path_hint(address) or (
            "name the files in it: FOLDER/*.npy" if path.is_dir() else FIND
        )
        if is_url(address):
            hint = "files of features are not downloaded: copy it to a disk, and give the path"
        raise UsageError(
            "there is no such file", where=path, expected="a file", found=found, hint=hint
        )
