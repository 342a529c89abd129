"""Images in arrays on disk: NumPy's .npz and the IDX files of the MNIST family.

Memory is bounded: a compressed array is read in blocks from its beginning on, and the last few
are kept, since neighbouring images are asked for side by side.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable
from math import prod
from typing import IO, Any

import numpy as np

from fungistore.containers.pixels import encode_pixels, refuse_huge
from fungistore.errors import ItemError

BLOCK_BYTES = 8_000_000
BLOCKS_KEPT = 4
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class ArrayStream:
    """Items of one array, behind its header in a stream that is read forwards.

    Args:
        reopen: opens the stream, placed behind the header.
        shape: of the array.
        dtype: of its numbers.
    """

    def __init__(
        self, reopen: Callable[[], IO[bytes]], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._reopen, self.shape, self._dtype = reopen, shape, dtype
        self._item_bytes = prod(shape[1:]) * dtype.itemsize
        self._items = max(1, BLOCK_BYTES // max(1, self._item_bytes))  # of a block
        self._stream: IO[bytes] | None = None
        self._next = 0  # the block that the stream stands before
        self._kept: dict[int, bytes] = {}

    def item(self, number: int) -> Any:
        """Return one item."""
        refuse_huge(self.shape[1:], self._dtype.itemsize)
        if not 0 <= number < self.shape[0]:
            raise ItemError(f"the array has no item {number}: it has {self.shape[0]}")
        block = self._block(number // self._items)
        start = number % self._items * self._item_bytes
        part = block[start : start + self._item_bytes]
        return np.frombuffer(part, self._dtype).reshape(self.shape[1:])

    def close(self) -> None:
        """Close the stream."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._kept.clear()

    def _block(self, number: int) -> bytes:
        while number not in self._kept:
            if self._stream is None or self._next > number:
                self.close()
                self._stream, self._next = self._reopen(), 0
            rows = min(self._items, self.shape[0] - self._next * self._items)
            content = self._stream.read(rows * self._item_bytes)
            if len(content) < rows * self._item_bytes:
                raise ItemError("the array ends before its last item")
            if len(self._kept) >= BLOCKS_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[self._next] = content
            self._next += 1
        return self._kept[number]


class NpzArrays:
    """Items of arrays in a .npz file: `name,number`."""

    def __init__(self, path: str) -> None:
        self._zip = zipfile.ZipFile(path)
        self._arrays: dict[str, ArrayStream] = {}

    def read(self, key: str) -> bytes:
        """Return one image."""
        name, _, number = key.rpartition(",")
        if name not in self._arrays:
            self._arrays[name] = npz_stream(self._zip, name)
        return encode_pixels(self._arrays[name].item(int(number)))

    def close(self) -> None:
        """Close the file."""
        for array in self._arrays.values():
            array.close()
        self._zip.close()


class IdxArray:
    """Items of an IDX file, which may be compressed by gzip: `number`."""

    def __init__(self, path: str) -> None:
        self._array = idx_stream(path)

    def read(self, key: str) -> bytes:
        """Return one image."""
        return encode_pixels(self._array.item(int(key)))

    def close(self) -> None:
        """Close the file."""
        self._array.close()


def open_npz(path: str) -> NpzArrays:
    """Open a .npz file."""
    return NpzArrays(path)


def open_idx(path: str) -> IdxArray:
    """Open an IDX file."""
    return IdxArray(path)


def npz_stream(archive: zipfile.ZipFile, name: str) -> ArrayStream:
    """Return an array of a .npz file, without reading it.

    Raises:
        ItemError: it is no array in the usual order, or one of Python objects.
        KeyError: there is none of that name.
    """

    def opened() -> IO[bytes]:
        stream = archive.open(f"{name}.npy")
        _npy_header(stream)
        return stream

    with archive.open(f"{name}.npy") as stream:
        shape, in_columns, dtype = _npy_header(stream)
    if in_columns or dtype.hasobject or not shape:
        raise ItemError(f"{name} is no plain array of images: {dtype}, {list(shape)}")
    return ArrayStream(opened, shape, dtype)


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    return (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)


def idx_stream(path: str) -> ArrayStream:
    """Return the array of an IDX file, without reading it.

    Raises:
        ItemError: it is none.
    """

    def opened() -> IO[bytes]:
        stream = _plain(path)
        stream.read(4 + 4 * len(shape))
        return stream

    with _plain(path) as stream:
        zeros, kind, dimensions = struct.unpack(">HBB", stream.read(4))
        if zeros or kind not in IDX_TYPES or not dimensions:
            raise ItemError("this is no IDX file")
        shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
    return ArrayStream(opened, shape, np.dtype(IDX_TYPES[kind]))


def _plain(path: str) -> IO[bytes]:
    with open(path, "rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open if is_compressed else open
    stream: IO[bytes] = opened(path, "rb")
    return stream
