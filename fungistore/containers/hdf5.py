"""Images in an array of an HDF5 file: `dataset,number`."""

from __future__ import annotations

from typing import Any

from fungistore.containers.pixels import encode_pixels, refuse_huge
from fungistore.errors import ItemError
from fungistore.extras import install_command


class Hdf5Array:
    """Items of the datasets of an HDF5 file."""

    def __init__(self, path: str) -> None:
        try:
            import h5py
        except ImportError as error:
            raise ItemError(f"h5py is not installed: {install_command('hdf5', 'h5py')}") from error
        self._file: Any = h5py.File(path, "r")

    def read(self, key: str) -> bytes:
        """Return one image."""
        name, _, number = key.rpartition(",")
        array = self._file[name]
        if not 0 <= int(number) < len(array):
            raise ItemError(f"the array has no item {number}: it has {len(array)}")
        refuse_huge(array.shape[1:], array.dtype.itemsize)
        return encode_pixels(array[int(number)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_hdf5(path: str) -> Hdf5Array:
    """Open an HDF5 file."""
    return Hdf5Array(path)
