"""What HDF5 files and zarr folders have in common: named arrays, some of which name the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.errors import FungiError, UsageError
from fungistore.exchange.formats import (
    KEYS_SHOWN,
    READ_BYTES,
    VECTORS,
    Matrix,
    refuse_numbers,
    row_bytes,
)
from fungistore.exchange.table import ROWS, ColumnNames, texts
from fungistore.fingerprint import Config
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.feature import PATCHES

UNLABELLED = 2**32 - 1  # of `targets`, which are unsigned in the reference code
LABEL_NAMES = "label_names"
TEXT_KINDS = "OSUT"  # NumPy's kinds of types that text comes in
KEPT_BYTES = 1 << 28  # what is larger than that is read again for each unit
RANDOM_BYTES = 1_000_000  # a chunk of at most so many is read for one of its rows
COORDINATES = ("coords", "coordinates")  # of a slide's patches, as pathology programs name them
MASKS = ("mask", "attention_mask", "padding_mask")
LENGTHS = ("length", "lengths", "num_tokens", "n_tokens")

Words = Callable[[Any, int, int], list[str | None]]


class DataSet(Protocol):
    """An array in a file, read by slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def ndim(self) -> int:
        """How many numbers the shape has."""

    @property
    def dtype(self) -> Any:
        """NumPy's type of its values."""

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Shape of what is compressed at once; None: nothing is."""

    def __getitem__(self, key: Any) -> Any:
        """Return some rows."""


class NamedArrays:
    """The array of features among the named arrays of a file; see `FeatureFile`.

    Args:
        path: the file.
        sets: its arrays by name.
        key: the array of the features; default: "embeddings", or the only one that can be.
        feature: what they are imported as; None: not said.
        names: the arrays that say what the rows are.
        words: reads rows of text of one of them.
        provenance: what an export wrote about the file.

    Raises:
        UsageError: there is no such array.
    """

    remark: str | None = None

    def __init__(
        self,
        path: Path,
        sets: Mapping[str, DataSet],
        key: str | None,
        feature: str | None,
        names: ColumnNames,
        words: Words,
        provenance: Config,
    ) -> None:
        self.path = path
        self._sets = sets
        self._words = words
        self.key = _choose(path, sets, key, feature)
        self._where = f"{path}, data set {self.key}" if self.key else str(path)
        self._chosen = chosen = sets[self.key]
        refuse_numbers(self._where, chosen.shape, chosen.dtype)
        self.dtype = chosen.dtype
        self.rows, *row_shape = (int(size) for size in chosen.shape)
        self.row_shape = tuple(row_shape)
        chunk_rows = chosen.chunks[0] if chosen.chunks else 1
        read_for_one = chunk_rows * row_bytes(self.row_shape, self.dtype)
        self.is_random_access = chunk_rows == 1 or read_for_one <= RANDOM_BYTES
        self._chunk_rows = chunk_rows if READ_BYTES < read_for_one <= KEPT_BYTES else 0
        self._kept: tuple[int, Matrix] = (-1, np.zeros(0))
        columns = [name for name, data in sets.items() if data.ndim == 1 and name != LABEL_NAMES]
        kinds = TEXT_KINDS + "iu"
        self._texts = names.find(columns, path, [n for n in columns if sets[n].dtype.kind in kinds])
        self.has_samples = bool(self._texts)
        self.provenance = provenance
        self._label_names: list[str | None] | None = None
        if LABEL_NAMES in sets and self._texts.get("label") == "targets":
            self._label_names = words(sets[LABEL_NAMES], 0, sets[LABEL_NAMES].shape[0])
            self.provenance |= {"label_names": self._label_names}
        self._refuse_lengths()
        if PATCHES in (feature, self.key):  # which is imported as them where nothing is said
            self._refuse_ragged()

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows [start, stop); a large chunk is kept until another one is asked for.

        Raises:
            UsageError: their bytes are damaged, or of a compression that is not installed.
        """
        if not self._chunk_rows:
            return self._read(start, stop)
        parts = []
        while start < stop:
            first = start // self._chunk_rows * self._chunk_rows
            if self._kept[0] != first:
                self._kept = (-1, np.zeros(0))  # two are never there
                end = min(first + self._chunk_rows, self.rows)
                self._kept = (first, self._read(first, end))
            parts.append(self._kept[1][start - first : stop - first])
            start = first + self._chunk_rows
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read(self, start: int, stop: int) -> Matrix:
        try:
            rows: Matrix = self._chosen[start:stop]
        except FungiError:
            raise
        except Exception as error:  # each codec has its own way to refuse bytes
            raise_unreadable(error)
            raise UsageError(
                "rows of the file cannot be read",
                where=f"{self._where}, rows {start} to {stop}",
                found=str(error).partition("\n")[0] or type(error).__name__,
                hint="copy the file again, or save it again with another compression",
            ) from error
        return rows

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """Return some rows, each read by itself."""
        taken = np.empty((len(rows), *self.row_shape), self.dtype)
        for place in np.argsort(rows):
            row = int(rows[place])
            taken[place] = self.read(row, row + 1)[0]
        return taken

    def samples(self) -> Iterator[pa.Table]:
        """Yield what the one-dimensional arrays say about the rows."""
        for start in range(0, self.rows, ROWS):
            columns = {
                name: self._column(text, name, start, min(start + ROWS, self.rows))
                for text, name in self._texts.items()
            }
            yield texts(pa.table(columns), self._texts, self.path)

    def _column(self, text: str, name: str, start: int, stop: int) -> Any:
        data = self._sets[name]
        if data.dtype.kind in TEXT_KINDS:
            try:
                return pa.array(self._words(data, start, stop), pa.string())
            except (TypeError, UnicodeDecodeError, pa.ArrowException) as error:
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
            if self._sets[name].shape[0] != self.rows:
                raise UsageError(
                    f"the number of {text}s differs from the number of vectors",
                    where=f"{self.path}, data set {name}",
                    expected=self.rows,
                    found=self._sets[name].shape[0],
                    hint=f"name another data set with --{text}s",
                )

    def _refuse_ragged(self) -> None:
        """Refuse bags of a slide's patches, and rows of which some tokens are padding."""
        by_word = {name.rpartition("/")[2].lower(): name for name in self._sets}
        if bags := [by_word[word] for word in COORDINATES if word in by_word]:
            raise UsageError(
                "these are the patches of one slide, as many as it has: a bag, and no grid",
                where=f"{self._where}, beside {bags[0]}",
                expected="rows of one shape, a sample each",
                hint=f"without --as {PATCHES} each patch [patches, width] is a sample; "
                "of slides, import one vector each, such as their mean",
            )
        for word in (*MASKS, *LENGTHS):
            data = self._sets.get(by_word.get(word, ""))
            if data is None or data.shape[:1] != (self.rows,) or data.ndim > 2:
                continue
            first = data[:1].flat[0]
            if any((data[at : at + ROWS] != first).any() for at in range(0, self.rows, ROWS)):
                raise UsageError(
                    "the rows have different numbers of tokens",
                    where=f"{self.path}, data set {by_word[word]}",
                    expected="the same in every row: padding would be trained on",
                    hint="import one vector a row, such as the mean of its tokens",
                )


def _choose(path: Path, sets: Mapping[str, DataSet], key: str | None, feature: str | None) -> str:
    """Return the name of the array that holds the features."""
    floats = {
        name: data.ndim
        for name, data in sets.items()
        if data.dtype.kind == "f" and name.rpartition("/")[2].lower() not in MASKS
    }
    tokens = [name for name, ndim in floats.items() if ndim in (3, 4)]
    matrices = [name for name, ndim in floats.items() if ndim == 2]
    usual, possible = (PATCHES, tokens) if feature == PATCHES else (VECTORS, matrices)
    if feature is None and not matrices and PATCHES in tokens:  # an export of patches
        usual = PATCHES
    key = None if key is None else key.strip("/")  # h5ls and h5dump print a slash in front
    if key in sets:
        return str(key)
    if key is None and usual in sets:
        return usual
    if key is None and len(possible) == 1:
        return possible[0]
    what = "an array [rows, tokens, width] or [rows, h, w, width]" if feature == PATCHES else None
    hint = "name it with --key"
    if not possible and tokens:
        hint = f"--as {PATCHES}, if {tokens[0]} holds patch tokens"
    elif not possible:
        hint = "rows are numbers of one shape; of different lengths they have no place in a store"
    raise UsageError(
        f"there is no data set {key!r}" if key else f"the {_plural(feature)} cannot be chosen",
        where=path,
        expected=f"one of {', '.join(possible)}" if possible else what or "a matrix of floats",
        found=said(sets) or "no data sets",
        hint=hint,
    )


def _plural(feature: str | None) -> str:
    return PATCHES if feature == PATCHES else "vectors"


def said(sets: Mapping[str, DataSet]) -> str:
    """Return names and shapes of a file's arrays, as many as can be read at a glance."""
    keys = [f"{name} {list(data.shape)}" for name, data in sets.items()]
    return ", ".join(keys[:KEYS_SHOWN]) + (", ..." if len(keys) > KEYS_SHOWN else "")


def refuse_unreadable(path: Path, what: str, error: BaseException, more: str = "") -> UsageError:
    """Return the error of a file that is not of the format that it should be."""
    return UsageError(
        f"the file cannot be read as {what}",
        where=path,
        found=str(error).partition("\n")[0] or type(error).__name__,
        hint=f"copy or save it again; of another kind, say so with --format{more}",
    )
