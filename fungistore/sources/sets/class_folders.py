"""Sets that are class folders of images, and no list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fungistore.errors import UsageError


def files_in(root: Path, folder: str, suffixes: Sequence[str]) -> list[str]:
    """Return the images of a folder as paths below the root, sorted by code point.

    Raises:
        UsageError: the folder cannot be listed.
    """
    try:
        names = sorted(entry.name for entry in (root / folder).iterdir())
    except OSError as error:
        raise UsageError(
            "a folder of the data set cannot be listed", where=root / folder, found=error.strerror
        ) from error
    endings = tuple(suffixes)
    return [
        f"{folder}/{name}"
        for name in names
        if name.lower().endswith(endings) and not name.startswith(".")
    ]


def files_of_classes(
    root: Path, classes: Sequence[str], suffixes: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield path and class of every image, class after class."""
    for name in classes:
        for path in files_in(root, name, suffixes):
            yield path, name
