"""A store in a directory: temporary file, fsync, rename, fsync of the directory; flock."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zarr.storage import LocalStore

from fungistore.errors import UsageError
from fungistore.names import CHUNKS, is_foreign, is_litter
from fungistore.store.backend import SCHEME, Bytes, Kind, Listing
from fungistore.store.chunks import METADATA
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.durable import (
    PARTIAL,
    make_directory,
    orphans,
    partial_path,
    publish,
    publish_all,
    sync,
    sync_all,
)
from fungistore.store.local_claims import LOCKS, LocalClaims
from fungistore.store.locks import Claims
from fungistore.store.units import FEATURES


class LocalBackend:
    """A directory of this machine, or of a network file system.

    Args:
        root: the directory.

    Raises:
        UsageError: its path is not UTF-8.
    """

    def __init__(self, root: Path) -> None:
        _refuse_odd_path(root)
        self.where = str(root)
        self.claims: Claims = LocalClaims(root)
        self._root = root.absolute()  # whatever directory the process goes to later
        self._settled: set[Path] = set()  # folders whose own entries this process has flushed

    def make_room(self) -> bool:
        """Make the directory; False where a file, or files of others, are."""
        if self._root.exists() and not self._root.is_dir():
            return False
        if self._root.is_dir() and any(map(_counts, self._root.iterdir())):
            return False
        make_directory(self._root)
        return True

    def has(self, key: str) -> bool:
        """Whether there is such a file."""
        try:
            return stat.S_ISREG(self.local_path(key).stat().st_mode)
        except OSError as error:
            raise_unreadable(error)
            return False

    def size(self, key: str) -> int:
        """Return the bytes of a file."""
        return self.local_path(key).stat().st_size

    def read(self, key: str) -> bytes:
        """Return a file's bytes."""
        return self.local_path(key).read_bytes()

    def read_all(self, key: str) -> dict[str, bytes]:
        """Return the files of a folder."""
        found = {}
        for name in self.list(key).files:
            try:
                found[name] = self.read(f"{key}/{name}")
            except OSError as error:
                raise_unreadable(error)
        return found

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Return the bytes of the files among some keys."""
        found = {}
        for key in keys:
            try:
                found[key] = os.stat(f"{self._root}/{key}").st_size
            except OSError as error:
                raise_unreadable(error)
        return found

    def once(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def soon(self, kind: Kind, *keys: str) -> None:
        """Do nothing: a disk is read without a round trip."""

    def tag(self, key: str) -> None:
        """Return None: a disk tells nothing."""
        return None

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[bytes]:
        """Return parts of a file."""
        with self.local_path(key).open("rb", buffering=0) as file:
            pairs = zip(starts, lengths, strict=True)
            return [os.pread(file.fileno(), count, start) for start, count in pairs]

    def list(self, key: str) -> Listing:
        """Return the names directly below a folder; a link to a folder counts as a file."""
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(self.local_path(key)) as entries:
                for entry in entries:
                    if not entry.name.endswith(PARTIAL):
                        is_own = entry.is_dir(follow_symlinks=False)
                        (folders if is_own else files).append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        return Listing(tuple(sorted(files)), tuple(sorted(folders)))

    def publish(self, key: str, *pieces: Bytes) -> None:
        """Write a file beside its place, flush it, and rename it."""
        self.publish_all({key: pieces})

    def publish_all(self, objects: Mapping[str, Sequence[Bytes]]) -> None:
        """Write files beside their places, flush all of them, and rename them.

        Flushes that are asked for at once cost a disk little more than one.
        """
        paths = {self.local_path(key): pieces for key, pieces in objects.items()}
        made = self._make_folders({path.parent for path in paths})
        publish_all(paths, {folder.parent for folder in made})
        self._settled |= made

    def publish_file(self, key: str, write: Callable[[Path], None]) -> None:
        """Let `write` fill a file beside its place, flush it, and rename it."""
        path = self.local_path(key)
        made = self._make_folders({path.parent})
        sync_all({folder.parent for folder in made})
        self._settled |= made
        publish(path, write)

    def append(self, key: str, lines: bytes) -> None:
        """Add lines to a file, and flush it."""
        path = self.local_path(key)
        is_new = not path.exists()
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) and not _ends_with_newline(path):
                file.write(b"\n")  # a kill or a full disk cut the last line short
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(path.parent)

    def remove(self, key: str) -> None:
        """Delete a file, a link, or a folder with all that is in it.

        A folder gets the name of an unfinished one first, so that a kill leaves no half of it.
        """
        path = self.local_path(key)
        if not key and path.is_symlink():  # the store's place, which its user linked: emptied
            for name in os.listdir(path):
                self.remove(name)
            return
        if path.is_dir() and not path.is_symlink():
            gone = partial_path(path) if key else path
            if key:
                path.rename(gone)
                sync(path.parent)
            shutil.rmtree(gone)
        else:
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync(path.parent)

    def local_path(self, key: str) -> Path:
        """Return the path of a file."""
        return self._root / key

    def directory(self, key: str = "") -> Path:
        """Return the path of a folder."""
        return self._root / key

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield the path of a file on the store's own disk, which a kill leaves to be swept."""
        path = partial_path(self.local_path("scratch"))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def zarr(self) -> LocalStore:
        """Return the directory as zarr reads it."""
        return LocalStore(self._root, read_only=True)

    def leftovers(self, key: str = "") -> Iterator[str]:
        """Yield the temporary files and folders that were not renamed."""
        for path in orphans(self.local_path(key)):
            yield path.relative_to(self._root).as_posix()

    def is_own(self, key: str) -> bool:
        """Whether no link leads from the directory to where a file is; it may be a link itself."""
        return self.local_path(key).parent.resolve().is_relative_to(self._root.resolve())

    def make_folder(self, key: str) -> None:
        """Make a folder, and flush that it is there."""
        made = self._make_folders({self.directory(key)})
        sync_all({folder.parent for folder in made})
        self._settled |= made

    def _make_folders(self, folders: Iterable[Path]) -> set[Path]:
        """Make folders; return those of which is to be flushed that they are there.

        Who made one may have died before that, so these are not the new ones alone.
        """
        new: set[Path] = set()
        for folder in folders:
            make_directory(self._root)
            while folder != self._root and folder not in new:
                if folder in self._settled and folder.is_dir():
                    break
                new.add(folder)
                folder = folder.parent
        for folder in sorted(new):  # those above first
            folder.mkdir(exist_ok=True)
        return new

    def settle(self) -> None:
        """Flush every folder but those of chunks, whose records are not written before.

        A writer may have been killed between a file's renaming and the flush of its folder: the
        file is there for all to see, and a power cut would still lose it.
        """
        for directory, folders, _ in os.walk(self._root):
            with suppress(FileNotFoundError, PermissionError):  # another writer's, who removes it
                sync(Path(directory))
            below = Path(directory).relative_to(self._root)
            folders[:] = [name for name in folders if self._is_settled(below / name)]

    def _is_settled(self, folder: Path) -> bool:
        """Whether `settle` goes into a folder: not where chunks are; a PCA may be named so."""
        may_be_of_chunks = folder.name == CHUNKS and folder.parts[0] == FEATURES
        is_of_chunks = may_be_of_chunks and not (self._root / folder / METADATA).exists()
        return not (is_of_chunks or is_foreign(folder.name))

    def free_bytes(self) -> int:
        """Return the bytes free on the file system that holds the directory, or will."""
        places = [self._root, *self._root.parents]
        existing = next(place for place in places if place.exists())
        status = os.statvfs(existing)
        return status.f_bavail * status.f_frsize


def open_url(where: str | Path) -> LocalBackend:
    """Return the backend of a directory, which may be spelled as a `file://` URL."""
    if isinstance(where, str) and SCHEME in where:
        return LocalBackend(Path(unquote(urlsplit(where).path)))
    return LocalBackend(Path(where))


def _refuse_odd_path(root: Path) -> None:
    try:
        str(root).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "the store's path has bytes that are not UTF-8, which Parquet and others refuse",
            where=root,
            expected="a STORE whose path is UTF-8; images may have any names",
            hint="rename the folder, or go into it and give a path from there",
        ) from error


def _counts(path: Path) -> bool:
    """Whether a file makes its directory something else than a store that a kill left unmade."""
    return not (path.name.endswith(PARTIAL) or path.name == LOCKS or is_litter(path.name))


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
