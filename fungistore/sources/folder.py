"""A folder of files: class folders are labels, and train/ val/ test/ above them are splits."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from fungistore.errors import FungiError
from fungistore.location import path_to_uri
from fungistore.modalities.modality import Modality
from fungistore.names import is_hidden, suffix_of
from fungistore.remote import files
from fungistore.remote.places import absolute
from fungistore.remote.urls import is_url
from fungistore.sources.labels import class_name, known_split, sort_label_names
from fungistore.sources.remote_folder import RemoteEntry, remote_entries
from fungistore.sources.roots import root_warnings
from fungistore.sources.sample import Sample

STORE = ".fungi"  # what stores are called at a URL

Entry = os.DirEntry[str] | RemoteEntry


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    prefix: str  # what goes before a name to make the path relative to the source's root
    split: str | None
    label: str | None
    lineage: tuple[str, ...]  # real paths of this folder and those it was reached through


class FolderReader:
    """A folder of files."""

    summary = "a folder of files, whose class folders are labels"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is a folder."""
        return os.path.isdir(path)

    def open(self, path: str, modality: Modality) -> FolderSource:
        """Return the source; see `FolderSource`."""
        return FolderSource(path, modality.suffixes)


class FolderSource:
    """Files below a folder, depth first, each folder's entries in the order of their names' bytes.

    The label is the first folder below the root, or below a split's folder. First-level folders
    named train, val, test, or another word for one of them (`labels.SPLIT_NAMES`) in any case, are
    splits if one of them has folders in it, or if there are no others; so `bus/ car/ train/` are
    three classes. Hidden entries are skipped, and so are files of other suffixes, which `ignored`
    counts; links are followed, but not to a folder that they are in.
    A link to nothing is yielded without size and mtime, so that it is reported as unreadable.

    Args:
        path: the folder.
        suffixes: of files that are samples, as a modality has them.

    Raises while iterating:
        FungiError: a folder cannot be listed.
    """

    origin = "folder"

    def __init__(self, path: str, suffixes: Collection[str]) -> None:
        self.root = absolute(path)
        self._suffixes = suffixes
        self._skipped: Counter[str] = Counter()

    def label_names(self) -> list[str]:
        """List the class folders, without looking into them: an empty one counts."""
        splits = self._splits()
        parents = [self.root, *(f"{self.root}/{name}" for name in splits)]
        return sort_label_names(
            _class(entry)
            for parent in parents
            for entry in visible_entries(parent)
            if is_folder(entry) and not (parent == self.root and entry.name in splits)
        )

    def __iter__(self) -> Iterator[Sample]:
        self._skipped.clear()
        splits = self._splits()
        top = _Folder(self.root, "", None, None, (_real(self.root),))
        pending = [(entry, top) for entry in reversed(visible_entries(self.root))]
        while pending:
            entry, parent = pending.pop()
            if is_folder(entry):
                if folder := _enter(parent, entry, splits):
                    entries = reversed(visible_entries(folder.path))
                    pending += [(child, folder) for child in entries]
            elif (suffix := suffix_of(entry.name)) not in self._suffixes:
                self._skipped[f".{suffix}" if suffix else "without a suffix"] += 1
            elif sample := _sample(parent, entry):
                yield sample

    def ignored(self) -> dict[str, int]:
        """Return how many files of which suffixes the last iteration passed over."""
        return dict(self._skipped)

    def remarks(self) -> list[str]:
        """Return what to give instead of a folder that looks like a data set's root."""
        splits = self._splits()
        entries = [entry for entry in visible_entries(self.root) if is_folder(entry)]
        top = [entry.name for entry in entries if entry.name not in splits]
        return root_warnings(self.root, top, self.label_names())

    def _splits(self) -> set[str]:
        folders = [entry for entry in visible_entries(self.root) if is_folder(entry)]
        named = [entry for entry in folders if known_split(entry.name)]
        if len(named) == len(folders) or any(_has_folders(entry.path) for entry in named):
            return {entry.name for entry in named}
        return set()


def visible_entries(path: str) -> Sequence[Entry]:
    """List what is in a folder, sorted by the bytes of the names; what systems make is left out.

    Raises:
        FungiError: the folder cannot be listed.
    """
    if is_url(path):
        return remote_entries(path)
    try:
        with os.scandir(path) as entries:
            visible = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise FungiError(
            "a folder of the source cannot be listed",
            where=path,
            found=error.strerror,
            hint=f"make it readable (chmod u+rx {path!r}), or move it out of the source",
        ) from error
    return sorted(visible, key=lambda entry: os.fsencode(entry.name))


def is_store(path: str) -> bool:
    """Tell whether a path is a store of this program, which is never part of a source."""
    if is_url(path):
        return files.is_file(f"{path.rstrip('/')}/store.json")
    return os.path.exists(os.path.join(path, "store.json"))


def is_folder(entry: Entry) -> bool:
    """Tell whether an entry is a folder or a link to one."""
    try:
        if not isinstance(entry, os.DirEntry):  # asking about each would cost a request
            return entry.is_dir() and not entry.name.endswith(STORE)
        return entry.is_dir() and not is_store(entry.path)
    except OSError:  # a link to itself
        return False


def _real(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)


def _class(entry: Entry) -> str:
    return class_name(path_to_uri(entry.name))


def _has_folders(path: str) -> bool:
    return any(is_folder(entry) for entry in visible_entries(path))


def _enter(parent: _Folder, entry: Entry, splits: set[str]) -> _Folder | None:
    linked = entry.is_symlink()
    real = os.path.realpath(entry.path) if linked else f"{parent.lineage[-1]}/{entry.name}"
    if real in parent.lineage:
        return None
    split, label = parent.split, parent.label
    if not parent.prefix and entry.name in splits:
        split = known_split(entry.name)
    elif label is None:
        label = _class(entry)
    prefix = f"{parent.prefix}{entry.name}/"
    return _Folder(entry.path, prefix, split, label, (*parent.lineage, real))


def _sample(folder: _Folder, entry: Entry) -> Sample | None:
    uri = path_to_uri(folder.prefix + entry.name)
    try:
        info = entry.stat()
    except OSError:  # a link to nothing, or a file that has just gone
        return Sample(uri, uri, folder.label, folder.split)
    if not stat.S_ISREG(info.st_mode):
        return None
    return Sample(uri, uri, folder.label, folder.split, info.st_size, info.st_mtime)
