"""A list of paths, as Python has them: `extract(["a.jpg", Path("b.jpg")], store)`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.remote.places import as_text
from fungistore.sources.sample import Sample
from fungistore.sources.stdin import samples_of

LONGEST_SHOWN = 100


class ListedSource:
    """Paths of files, in their order.

    Ids and uris are the paths as given, as those of standard input are; relative ones start at the
    current directory. Labels and splits are not known.

    Args:
        paths: of the files.

    Raises:
        UsageError: there is none, or one is a folder or no path.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.root = str(Path.cwd())
        is_list = isinstance(paths, Iterable) and getattr(paths, "ndim", 1) == 1  # no data frame
        self._paths = list(paths) if is_list else []
        odd: list[object] = [path for path in self._paths if not isinstance(path, str | Path)]
        odd += [path for path in self._paths[:1] if not odd and Path(path).is_dir()]
        odd += [] if is_list else [paths]
        hint = "give a folder or a table of its own by its path alone, an array as files"
        if not odd:
            hint = "nothing made it into the list: check the pattern or folder that it comes from"
        if odd or not self._paths:
            raise UsageError(
                "a list of sources holds paths of single files",
                where="source",
                expected='["a.jpg", Path("b.jpg")]; a folder, a manifest or shards stand alone',
                found=repr(odd[0])[:LONGEST_SHOWN] if odd else "an empty list",
                hint=hint,
            )

    def knows(self) -> tuple[str, ...]:
        """Return nothing: neither labels nor splits."""
        return ()

    def label_names(self) -> list[str]:
        """Return no names."""
        return []

    def __iter__(self) -> Iterator[Sample]:
        return samples_of(self.root, (os.fsencode(as_text(path)) for path in self._paths))
