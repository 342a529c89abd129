"""CIFAR's batches, which are pickles: read without running whatever else a pickle may hold."""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fungistore.containers.pixels import encode_pixels
from fungistore.errors import ItemError

SIDE = 32
# What the pickles of the sets themselves name, from Python 2 and NumPy of their time.
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): np.ndarray,
    ("numpy._core.multiarray", "_reconstruct"): np.ndarray,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows arrays and plain values alone; anything else is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it pickles {module}.{name}, which no such file has")
        if name == "_reconstruct":
            return _reconstruct
        return _NAMES[module, name]


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> Any:
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("an array of another kind")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def read_plain_pickle(path: str | Path) -> dict[str, Any]:
    """Return the table that a pickle of plain values and arrays is, with its keys as text.

    Raises:
        UnpicklingError: it holds anything else, or is none.
    """
    loaded = _PlainUnpickler(io.BytesIO(Path(path).read_bytes()), encoding="bytes").load()
    if not isinstance(loaded, dict):
        raise pickle.UnpicklingError(f"a {type(loaded).__name__} instead of a table")
    return {key.decode() if isinstance(key, bytes) else key: one for key, one in loaded.items()}


class CifarBatch:
    """Images of one batch: `number`."""

    def __init__(self, path: str) -> None:
        data = np.asarray(read_plain_pickle(path)["data"])
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * SIDE * SIDE:
            raise ItemError(f"a batch of {data.dtype}, {list(data.shape)} is none of CIFAR's")
        self._images = data.reshape(-1, 3, SIDE, SIDE)

    def read(self, key: str) -> bytes:
        """Return one image."""
        if not 0 <= int(key) < len(self._images):
            raise ItemError(f"the batch has no image {key}: it has {len(self._images)}")
        return encode_pixels(self._images[int(key)])

    def close(self) -> None:
        """Let the images go."""


def open_cifar(path: str) -> CifarBatch:
    """Open a batch."""
    return CifarBatch(path)
