"""Where parts of stores at a URL are kept on this machine, and how many of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Predicate

from fungistore.errors import UsageError
from fungistore.headings import STORAGE
from fungistore.machine.user_cache import user_cache
from fungistore.quantities import bytes_in
from fungistore.settings import Setting, Settings
from fungistore.type_words import Words

if TYPE_CHECKING:
    from fungistore.remote.cache import Cache

DIRECTORY, SIZE = "FUNGI_CACHE_DIR", "FUNGI_CACHE_SIZE"  # worker processes get them too
DEFAULT_SIZE = "20GB"
SIZE_WORDS = "a number of bytes such as 20GB or 500MB; 0 keeps nothing"


def _is_size(text: str) -> bool:
    return bytes_in(text) is not None


Size = Annotated[str, Predicate(_is_size), Words(SIZE_WORDS)]


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Settings):
    """What is kept of stores at a URL, so that it is read from there once."""

    heading = STORAGE

    cache_dir: Annotated[
        Path | None,
        Setting(
            "Where what was read of a store at a URL is kept.",
            default=f"${DIRECTORY}, or fungi/objects in the user's cache",
            metavar="DIR",
        ),
    ] = None
    cache_size: Annotated[
        Size | None,
        Setting(
            "Bytes that are kept at most, those used last.",
            default=f"${SIZE}, or {DEFAULT_SIZE}",
            metavar="SIZE",
        ),
    ] = None

    def use(self) -> None:
        """Set the variables that this process, and those that it starts, read."""
        if self.cache_dir is not None:
            os.environ[DIRECTORY] = str(self.cache_dir.absolute())
        if self.cache_size is not None:
            os.environ[SIZE] = self.cache_size


def object_cache() -> Cache | None:
    """Return the cache that the variables ask for; None where nothing is to be kept.

    Raises:
        UsageError: FUNGI_CACHE_SIZE is no size, or the user has no home and named no directory.
    """
    text = os.environ.get(SIZE) or DEFAULT_SIZE
    most = bytes_in(text)
    if most is None:
        raise UsageError("this is no size", where=SIZE, expected=SIZE_WORDS, found=repr(text))
    place = os.environ.get(DIRECTORY)
    folder = Path(place).expanduser().absolute() if place else user_cache() / "objects"
    return _cache(folder, most) if most else None


@cache
def _cache(folder: Path, most: int) -> Cache:
    from fungistore.remote.cache import Cache  # NumPy, which the command line's help does without

    return Cache(folder, most)
