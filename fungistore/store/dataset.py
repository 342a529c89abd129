"""A store's rows as a torch Dataset: of any DataLoader, in any number of workers."""

from __future__ import annotations

import operator
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from fungistore.errors import UsageError
from fungistore.quantities import counted
from fungistore.store.coverage import coverage_of, read_rows
from fungistore.store.feature import is_pca, name_of, vectors_of
from fungistore.store.feature_sets import choose_feature_set
from fungistore.store.fetched_rows import plain_rows
from fungistore.store.gather import (
    BatchBuffers,
    Job,
    RowReader,
    Values,
    require_committed,
)
from fungistore.store.records import Records
from fungistore.store.removed import GONE, left_out
from fungistore.store.samples import Rows
from fungistore.store.units import UnitArray

if TYPE_CHECKING:
    from fungistore.store.store import Store

UNKNOWN = -1  # the label of a row without one
DECODED_BYTES = 1 << 30  # of units of compressed arrays that stay in memory, in each worker
BUFFERS = 3  # that a process keeps for the next batches of a feature


class StoreDataset(Dataset[dict[str, Any]]):
    """Rows of a store; `Store.dataset` makes one.

    An item is a dictionary: a tensor in the stored type under each feature's name as it was asked
    for, "label" (the class's number, -1 without one), "id" and "row" (of the sample table). torch's
    own collate makes batches of it: tensors [b, ...], labels and rows [b], a list of ids. A
    DataLoader reads a whole batch in one call. The tensors are the caller's.

    It can be pickled and forked: each process opens the chunks for itself. Rows of compressed
    arrays (codec zstd, bitround) cost a unit each where they come in random order and the units do
    not fit in `decoded_bytes`.

    Args:
        features: the array of each feature, by the name that it has in items.
        rows: rows of the sample table, in the order of the dataset; all can be used.
        labels: of these rows.
        ids: of these rows.
        classes: names of the classes, by their number.
        left_out: how many rows were asked for that are not in it, by reason.
        decoded_bytes: of units of compressed arrays that a process keeps.

    Attributes:
        rows, labels, classes, left_out: as above.
    """

    def __init__(
        self,
        features: Mapping[str, UnitArray],
        rows: Rows,
        labels: NDArray[np.int32],
        ids: pa.Array,
        classes: tuple[str, ...],
        left_out: Mapping[str, int],
        decoded_bytes: int = DECODED_BYTES,
    ) -> None:
        self._features = dict(features)
        self._ids = ids  # of Arrow: Python's strings would be copied by every forked worker
        self.rows = rows
        self.labels = labels
        self.classes = classes
        self.left_out = dict(left_out)
        self._decoded_bytes = decoded_bytes // max(1, len(features))
        self._readers: dict[str, RowReader] = {}
        self._buffers: dict[str, BatchBuffers] = {}
        self._process = 0

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, as items have them."""
        return tuple(self._features)

    def shape(self, feature: str) -> tuple[int, ...]:
        """Return the shape of a feature of one item."""
        return self._features[feature].feature.row_shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = operator.index(index)  # a fraction, or a slice, is no item
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {number} of {len(self)}")
        return self.__getitems__([number])[0]

    def __getitems__(self, indices: Sequence[int]) -> Items:
        """Return several items at once; a DataLoader asks so for the items of a batch."""
        places = np.asarray(indices, np.int64)
        rows = self.rows[places]  # refuses what is out of range; negative ones are from the end
        places = places % max(1, len(self))
        fields: dict[str, Any] = {name: self._read(name, rows) for name in self._features}
        fields["label"] = torch.from_numpy(self.labels[places].astype(np.int64))
        fields["id"] = self._ids.take(pa.array(places)).to_pylist()
        fields["row"] = torch.from_numpy(rows)
        return Items(fields, len(places))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}, "_buffers": {}}

    def __repr__(self) -> str:
        shapes = (f"{name} {list(self.shape(name))}" for name in self._features)
        left_out = sum(self.left_out.values())
        more = f", {left_out} left out" if left_out else ""
        return f"<StoreDataset: {counted(len(self), 'row')} of {', '.join(shapes)}{more}>"

    def _read(self, name: str, rows: Rows) -> Tensor:
        values = self._take(name, len(rows))
        for job in self._reader(name).jobs(rows, values.numpy()) if len(rows) else ():
            job()
        return values

    def _take(self, name: str, count: int) -> Tensor:
        """Return a buffer; in a worker it is one of shared memory, which travels without a copy."""
        array = self._features[name]
        shape, dtype = (count, *array.feature.row_shape), np.dtype(array.array.dtype)
        if get_worker_info() is not None and count:
            storage = torch.UntypedStorage._new_shared(int(np.prod(shape)) * dtype.itemsize)
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return torch.empty(0, dtype=kind).set_(storage).view(shape)
        if name not in self._buffers or self._buffers[name].count < count:
            self._buffers[name] = BatchBuffers(shape, dtype, BUFFERS)
        return self._buffers[name].take(count)

    def _reader(self, name: str) -> RowReader:
        if self._process != os.getpid():  # a fork may have copied a lock that a thread was holding
            self._readers, self._buffers, self._process = {}, {}, os.getpid()
        if name not in self._readers:
            array = self._features[name]
            self._readers[name] = (
                plain_rows(array, 1, self.rows)
                if array.plain
                else _KeptChunks(array, self._decoded_bytes)
            )
        return self._readers[name]


class Item(dict[str, Any]):
    """One row by the names of its fields."""


class Items(Sequence[Item]):
    """Rows that were read at once; torch's collate takes them as the batch that they are.

    Args:
        fields: of all of them, by name.
        count: how many they are.
    """

    def __init__(self, fields: Mapping[str, Any], count: int) -> None:
        self.fields = dict(fields)
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        fields = {name: values[place] for name, values in self.fields.items()}
        return Item(fields | {name: fields[name].item() for name in ("label", "row")})


def _collate(items: Sequence[Item], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """Return a batch, as torch's own collate does, without copying what is one already."""
    if isinstance(items, Items):
        return items.fields
    return {
        name: collate([i[name] for i in items], collate_fn_map=collate_fn_map) for name in items[0]
    }


default_collate_fn_map[Item] = _collate  # as torch says that types of others join in


class _KeptChunks:
    """Rows of an array whose chunks have to be decoded whole: those that were used last are kept.

    Args:
        array: the array.
        most_bytes: of decoded chunks.
    """

    def __init__(self, array: UnitArray, most_bytes: int) -> None:
        self._array = array
        self._most = max(1, most_bytes // (array.chunk_rows * array.feature.row_bytes))
        self._kept: OrderedDict[int, Values] = OrderedDict()  # latest used last

    def jobs(self, rows: Rows, out: Values) -> Iterable[Job]:
        """Yield one job for each chunk."""
        chunks = rows // self._array.chunk_rows
        for chunk in np.unique(chunks).tolist():
            yield partial(self._copy, chunk, rows, np.flatnonzero(chunks == chunk), out)

    def _copy(self, chunk: int, rows: Rows, places: Rows, out: Values) -> None:
        start = chunk * self._array.chunk_rows
        if chunk not in self._kept:
            if len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            stop = min(start + self._array.chunk_rows, self._array.rows)
            self._kept[chunk] = read_rows(self._array, start, stop)
        self._kept.move_to_end(chunk)
        out[places] = self._kept[chunk][rows[places] - start]


def open_dataset(
    store: Store,
    features: Sequence[str],
    *,
    feature_set: str | None,
    split: str | None,
    rows: Sequence[int] | Rows | None,
) -> StoreDataset:
    """Choose features and rows of a store; see `Store.dataset`."""
    chosen = choose_feature_set(store, feature_set)
    arrays = store.arrays(chosen)
    if not features:
        raise UsageError("a dataset of which features?", where=store.where, expected=_names(arrays))
    if not all(isinstance(name, str) for name in features):
        raise UsageError(
            "features are named one after the other",
            expected='store.dataset("patches", "embeddings")',
            found=repr(features)[1:-1].rstrip(","),
            hint="store.dataset(*names) takes a list of names",
        )
    found = {name: _array(store, chosen, arrays, name) for name in features}
    wanted = _rows(store, split, rows)
    records, samples = Records(arrays.values()), len(store.samples)
    coverage = coverage_of(found.values(), records, samples, left_out(store))
    removed = int(coverage.removed[wanted].sum())
    usable = wanted[coverage.usable[wanted]]
    for array in found.values():
        require_committed(array, usable)
    ids = pa.concat_arrays(
        [pa.array([], pa.string()), *(b["id"] for b in store.samples.batches("id"))]
    )
    return StoreDataset(
        found,
        usable,
        store.samples.labels()[usable],
        ids.take(pa.array(usable)),
        store.manifest.labels,
        {"rows without usable features": len(wanted) - len(usable) - removed}
        | ({GONE: removed} if removed else {}),
    )


def _array(store: Store, feature_set: str, arrays: Mapping[str, UnitArray], name: str) -> UnitArray:
    array = arrays.get(name) or vectors_of(arrays).get(name)
    if array is None:
        raise UsageError(
            f"there is no feature {name!r}",
            where=f"feature set {feature_set!r} of {store.where}",
            expected=_names(arrays),
            hint="fungi extract with --features adds what is missing",
        )
    return array


def _names(arrays: Mapping[str, UnitArray]) -> str:
    others = (path for path in arrays if name_of(path) not in vectors_of(arrays) or is_pca(path))
    return ", ".join([*vectors_of(arrays), *others])


def _rows(store: Store, split: str | None, rows: Sequence[int] | Rows | None) -> Rows:
    count = len(store.samples)
    chosen = np.arange(count) if rows is None else _numbers(rows, count)
    if split is None:
        return chosen
    splits = store.samples.splits()
    if not isinstance(split, str) or split not in splits:
        raise UsageError(
            f"there is no split {split!r}",
            where=store.where,
            expected=", ".join(splits) or "no sample has one: leave split out",
        )
    return chosen[np.isin(chosen, splits[split])]


def _numbers(rows: Sequence[int] | Rows, count: int) -> Rows:
    """Return row numbers as an array; a mask over all rows chooses those that are True."""
    numbers = np.asarray(rows)
    if numbers.dtype == bool and numbers.shape == (count,):
        return np.flatnonzero(numbers)
    is_sound = numbers.ndim == 1 and (not len(numbers) or np.issubdtype(numbers.dtype, np.integer))
    if not is_sound or ((numbers < 0) | (numbers >= count)).any():
        raise UsageError(
            "rows that are not there",
            where="rows",
            expected=f"row numbers from 0 to {count - 1}, or a mask of {count} truth values",
            found=f"{numbers.dtype} {list(numbers.shape)}"
            if not is_sound
            else numbers.tolist()[:5],
        )
    return numbers.astype(np.int64)
