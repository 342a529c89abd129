"""CIFAR's batches, which are pickles: read without running whatever else a pickle may hold."""

from __future__ import annotations

import io
import pickle
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fungistore.containers.pixels import encode_pixels
from fungistore.errors import ItemError

SIDE = 32


class _Numbers:
    """Stands for an array while a pickle is read: its bytes, of which no NumPy object is made."""

    def __init__(self, *given: Any) -> None:
        if given:  # a memory, or more of it than there is
            raise pickle.UnpicklingError("an array that is made in an odd way")

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.in_columns, self.content = state

    def array(self) -> NDArray[np.uint8]:
        """Return the array, if it is one of bytes."""
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        if not isinstance(self.kind, _Kind) or self.kind.code not in ("u1", "|u1"):
            raise pickle.UnpicklingError("an array of other numbers than bytes")
        if not isinstance(content, bytes) or len(content) != prod(self.shape):
            raise pickle.UnpicklingError("an array of another shape than its bytes have")
        order: Literal["F", "C"] = "F" if self.in_columns else "C"
        return np.frombuffer(content, np.uint8).reshape(self.shape, order=order)


class _Kind:
    """Stands for the type of an array's numbers."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Leave it: of bytes there is nothing to say."""


def _reconstruct(*_: Any) -> _Numbers:
    return _Numbers()


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("bytes in an odd spelling")
    return text.encode("latin1")


# What the pickles of the sets themselves name, from Python 2 and NumPy of their time, and what
# stands for it here: a state that a pickle gives a real array or type may break the process.
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Numbers,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows arrays of bytes and plain values alone; anything else is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it pickles {module}.{name}, which no such file has")
        return _NAMES[module, name]


def read_plain_pickle(path: str | Path) -> dict[str, Any]:
    """Return the table that a pickle of plain values and arrays is, with its keys as text.

    Raises:
        UnpicklingError: it holds anything else, or is none.
    """
    loaded = _PlainUnpickler(io.BytesIO(Path(path).read_bytes()), encoding="bytes").load()
    if not isinstance(loaded, dict):
        raise pickle.UnpicklingError(f"a {type(loaded).__name__} instead of a table")
    return {
        key.decode() if isinstance(key, bytes) else key: (
            one.array() if isinstance(one, _Numbers) else one
        )
        for key, one in loaded.items()
    }


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
