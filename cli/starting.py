"""A word while libraries are imported, which takes seconds: an empty screen looks like a hang."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any

from .output import note

SLOW = frozenset({"torch", "faiss", "scipy", "sklearn", "timm", "zarr"})  # half a second and more


class _Announcer(MetaPathFinder):
    """Finds nothing: it is asked first, and so hears what is about to be imported."""

    is_said = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname in SLOW and not self.is_said:
            self.is_said = True
            note("loading libraries")


@contextmanager
def announced_imports() -> Iterator[None]:
    """Say once that slow libraries are imported; nothing where the process has some already."""
    announcer = _Announcer()
    if SLOW.isdisjoint(sys.modules):
        sys.meta_path.insert(0, announcer)
    try:
        yield
    finally:
        if announcer in sys.meta_path:
            sys.meta_path.remove(announcer)
