"""Datasets of this process, as Python passes them in; another process has none of them."""

from __future__ import annotations

import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from fungistore.containers.pixels import encode_pixels
from fungistore.errors import ItemError

PROBES = 5  # images by which a dataset is known
_AT_HAND: dict[str, Any] = {}


def keep_dataset(name: str, dataset: Any) -> None:
    """Let the items of a dataset be read by its name, for as long as this process runs."""
    _AT_HAND[name] = dataset


def image_of(item: Any) -> Any:
    """Return the image of what a dataset gives: the first of a tuple, a field of a table."""
    if isinstance(item, dict):
        for name in ("image", "img", "pixel_values", "x"):
            if name in item:
                return item[name]
        raise ItemError(f"the dataset's items have no image, but {', '.join(map(str, item))}")
    return item[0] if isinstance(item, tuple | list) else item


def encoded_item(dataset: Any, number: int) -> bytes:
    """Return one image of a dataset, without loss.

    Raises:
        ItemError: it gives no image.
        Exception: whatever the dataset raises.
    """
    image = image_of(dataset[number])
    if hasattr(image, "convert"):  # Pillow's
        from fungistore.containers.pillow import encode_image

        return encode_image(image)
    if hasattr(image, "detach"):  # torch's
        image = image.detach().cpu().numpy()
    return encode_pixels(image)


def mark_of_dataset(dataset: Any) -> str:
    """Return the CRC-32 of a few images of a dataset: of the first, of the last and between."""
    crc, last = 0, len(dataset) - 1
    for number in sorted(
        {last * part // (PROBES - 1) for part in range(PROBES)} if last >= 0 else ()
    ):
        with suppress(Exception):  # it is a failed input, in time
            crc = zlib.crc32(encoded_item(dataset, number), crc)
    return f"{crc:08x}"


class LiveDataset:
    """Items of a dataset: `number`. One thread at a time asks it: few datasets bear several."""

    def __init__(self, name: str) -> None:
        if name not in _AT_HAND:
            raise ItemError(
                f"the dataset {name!r} is not at hand: only a process that passes it to "
                "fungi.extract can read it"
            )
        self._name = name

    def read(self, key: str) -> bytes:
        """Return one image, without loss."""
        return encoded_item(_AT_HAND[self._name], int(key))

    def close(self) -> None:
        """Keep the dataset: it is the process's."""


def open_dataset(path: str) -> LiveDataset:
    """Return the dataset of a name, which stands where others have a path."""
    return LiveDataset(Path(path).name)
