"""Ground truth of the revisited Oxford and Paris retrieval sets, from its pickle or from JSON.

Both have the same shape, that of the published `gnd_roxford5k.pkl` (Radenovic et al., CVPR 2018):

    {"imlist": ["all_souls_000013", ...],       names of the database's images
     "qimlist": ["all_souls_000026", ...],      names of the queries' images
     "gnd": [{"easy": [7, ...], "hard": [...], "junk": [...]}, ...]}      one for each query

where numbers are positions in `imlist`. Other keys, such as the boxes `bbx`, are passed over.

A pickle can run any code when it is read, so none of its instructions reaches Python's own reader
of objects: only the few names that NumPy arrays are written with are known here, and stand for the
inert classes below. No NumPy object is built from a state that a file made up.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.fingerprint import digest_bytes
from fungistore.quantities import counted

LISTS = ("easy", "hard", "junk")
SHAPE = 'a mapping with "imlist", "qimlist", and "gnd": a mapping of easy, hard, junk a query'


@dataclass(frozen=True)
class QueryTruth:
    """One query: its image's name and, as positions in the database, what it should find.

    Attributes:
        name: of the image.
        easy, hard: images that show the same thing, clearly or hardly.
        junk: images that count neither way.
    """

    name: str
    easy: NDArray[np.int64]
    hard: NDArray[np.int64]
    junk: NDArray[np.int64]


@dataclass(frozen=True)
class GroundTruth:
    """The images of a database, and queries on it; `digest` is of the file that says so."""

    images: tuple[str, ...]
    queries: tuple[QueryTruth, ...]
    digest: str


def read_ground_truth(path: Path) -> GroundTruth:
    """Read ground truth: JSON from a file that ends in .json, else the published pickle.

    Raises:
        UsageError: the file cannot be read, is something else, or holds more than data.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            "the ground truth cannot be read",
            where=path,
            found=error.strerror,
            hint="--ground-truth names a file such as gnd_roxford5k.pkl",
        ) from error
    try:
        document = json.loads(data) if path.suffix == ".json" else _load_pickle(data, path)
    except UsageError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise UsageError(
            "not a ground truth",
            where=path,
            expected="JSON in a .json file, or the pickle of revisited Oxford or Paris",
            found=f"{type(error).__name__}: {error}",
        ) from error
    return _parse(document, path, digest_bytes(data))


def _load_pickle(data: bytes, path: Path) -> Any:
    return _DataUnpickler(io.BytesIO(data), path).load()


def _parse(document: Any, path: Path, digest: str) -> GroundTruth:
    try:
        images, names, truths = (document[key] for key in ("imlist", "qimlist", "gnd"))
        images, names = _names(images), _names(names)
        if len(names) != len(truths):
            raise ValueError(f"{counted(len(names), 'query')} in qimlist, {len(truths)} in gnd")
        queries = tuple(
            QueryTruth(name, *(_positions(truth[key], len(images)) for key in LISTS))
            for name, truth in zip(names, truths, strict=True)
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UsageError(
            "not a revisited ground truth",
            where=path,
            expected=SHAPE,
            found=f"no {error}" if isinstance(error, KeyError) else error,
            hint="the original Oxford and Paris labels (good, ok) are another protocol",
        ) from error
    return GroundTruth(images, queries, digest)


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(value.values if isinstance(value, _Array) else value)
    if isinstance(value, str) or not all(isinstance(name, str) for name in names):
        raise ValueError("a name is not a text")
    if len(set(names)) != len(names):
        raise ValueError("a name occurs twice in a list")
    return names


def _positions(value: Any, count: int) -> NDArray[np.int64]:
    numbers = value.values if isinstance(value, _Array) else value
    if not isinstance(numbers, Sequence) or any(type(number) is not int for number in numbers):
        raise ValueError("a position is not a whole number")
    if numbers and (min(numbers) < 0 or max(numbers) >= count):
        raise ValueError(f"positions {min(numbers)} to {max(numbers)} of {counted(count, 'image')}")
    return np.unique(np.array(numbers, np.int64))


class _DataUnpickler(pickle.Unpickler):
    """Reads plain data and arrays of numbers; refuses every other name without looking it up."""

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream, encoding="latin1")  # Python 2 wrote arrays' bytes as text
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            self._refuse(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        self._refuse("a persistent object")

    def _refuse(self, found: str) -> NoReturn:
        raise UsageError(
            "the pickle holds more than data; nothing of it was run",
            where=self._path,
            expected="lists, texts, numbers and NumPy arrays of numbers",
            found=found,
            hint="if you trust its author, convert it to JSON of the same shape",
        )


class _Dtype:
    """Stands for numpy.dtype: numbers, and objects for arrays of texts."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[<>|=]?([iuf][1248]|O8?)", code):
            raise ValueError(f"an array of {code!r}")
        self.code = code.lstrip("<>|=")
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def values(self, data: bytes | str | list[Any]) -> list[Any]:
        if self.code.startswith("O"):
            if not isinstance(data, list):
                raise ValueError("an array of objects without a list of them")
            return data
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        return np.frombuffer(raw, self.order + self.code).tolist()


class _Array:
    """Stands for numpy.ndarray: its values in one flat list."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, dtype, _, data = state
        self.values = dtype.values(data)


def _empty_array(*_: object) -> _Array:
    """Stands for numpy's _reconstruct, which makes an array whose state follows."""
    return _Array()


def _array_of(data: bytes, dtype: _Dtype, *_: object) -> _Array:
    """Stands for numpy's _frombuffer, of pickle protocol 5."""
    array = _Array()
    array.values = dtype.values(data)
    return array


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return dtype.values(data)[0]


def _no_bytes() -> bytes:
    """Stands for bytes() without arguments, with which protocol 2 writes empty ones."""
    return b""


def _bytes_of(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, with which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes written as {encoding!r}")
    return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_of,
    ("numpy._core.numeric", "_frombuffer"): _array_of,
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _bytes_of,
}
