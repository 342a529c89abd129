"""What is below a prefix of a bucket, as a folder of the disk is listed: a level at a time."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from fungistore.errors import FungiError, UsageError
from fungistore.modalities.fetching import unreachable
from fungistore.names import is_hidden
from fungistore.remote.files import place_of, time_of
from fungistore.remote.places import is_web


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """An object, or a prefix that several have: what `os.DirEntry` is of a disk.

    Attributes:
        name: of it.
        path: its URL.
        size: of an object in bytes; None of a prefix.
        mtime: of an object, in seconds since the epoch.
    """

    name: str
    path: str
    size: int | None = None
    mtime: float | None = None

    def is_dir(self) -> bool:
        """Whether it is a prefix."""
        return self.size is None

    def is_symlink(self) -> bool:
        """Return that it is none."""
        return False

    def stat(self) -> os.stat_result:
        """Return what a disk would say of such a file."""
        mode = stat.S_IFDIR if self.size is None else stat.S_IFREG
        return os.stat_result((mode, 0, 0, 1, 0, 0, self.size or 0, 0, self.mtime or 0, 0))


def remote_entries(url: str) -> list[RemoteEntry]:
    """List what is directly below a prefix, sorted by the bytes of the names.

    Raises:
        UsageError: it is a web server's, which lists nothing.
        UnreachableError: it cannot be listed.
    """
    if is_web(url):
        raise UsageError(
            "a web server does not list what it has",
            where=url,
            expected="the URL of a .tar, or of a .parquet, .csv or .jsonl list",
            hint="write the URLs into a .csv with a column `path`, or give them on stdin: "
            "fungi extract - STORE < urls.txt",
        )
    bucket, key = place_of(url)
    try:
        heads, folders = bucket.level(f"{key.rstrip('/')}/" if key else "")
    except FileNotFoundError as error:
        raise FungiError("there is no such bucket or folder", where=url) from error
    except OSError as error:
        raise unreachable(error, "the folder") from error
    found = [RemoteEntry(name, f"{url.rstrip('/')}/{name}") for name in folders]
    for head in heads:
        name = head.key.rpartition("/")[2]
        if name and head.key != key:  # some tools put an empty object in the place of a folder
            found.append(RemoteEntry(name, f"{url.rstrip('/')}/{name}", head.size, time_of(head)))
    return sorted(
        (entry for entry in found if not is_hidden(entry.name)),
        key=lambda entry: os.fsencode(entry.name),
    )
