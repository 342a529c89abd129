"""What to try where a path leads nowhere, or to something that is no source: by its cause."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit

from fungistore.modalities.image.extra_formats import absent_format
from fungistore.modalities.modality import AUDIO, MODALITIES, Modality, find_modality
from fungistore.names import suffix_of
from fungistore.remote.urls import SCHEMES, is_url
from fungistore.sources.shards import is_shard_name

FIND = "check where it starts from: relative paths start at the current folder"
LISTED = 1000  # entries of a folder that are looked at
QUOTES = "'\"`\u2018\u2019\u201c\u201d"
MARK = "\ufeff"
_DRIVE = re.compile(r"([A-Za-z]):[\\/]")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_ARCHIVES = {"zip": "unzip", "7z": "7z x", "rar": "unrar x", "gz": "gunzip", "zst": "zstd -d"}
_SHEETS = ("xlsx", "xls", "ods", "numbers", "gsheet")
_LISTS = ("txt", "lst", "list")
_TABLES = ("feather", "orc", "arrow", "xml", "dta", "sav", "rds")
_VECTORS = ("npy", "pt", "pth", "safetensors", "h5", "hdf5")
VIDEOS = ("mp4", "mov", "avi", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv")
_OTHER_SOUNDS = ("m4a", "aac", "wma", "amr", "ape", "dsf", "mka", "wv")
RAW = ("nef", "cr2", "cr3", "arw", "dng", "raf", "orf", "rw2", "pef", "srw")


def path_hint(path: str, root: str = ".") -> str | None:
    """Return what is likely wrong with a path that leads nowhere, and what would be right."""

    def there(other: str) -> bool:
        return other != path and os.path.exists(os.path.join(root, other))

    url = _URL.match(path)
    if url and url[1].lower() == "file":
        return f"give the path alone: {unquote(urlsplit(path).path)}"
    if url:
        if is_url(path):
            return None  # the server has said what is wrong
        return f"URLs of {url[1]}:// are not read ({', '.join(SCHEMES)} are): copy it to a disk"
    if path.rstrip("/").endswith(".fungi"):
        return "the source comes first, and then the store: fungi extract SOURCE STORE"
    if path.startswith(MARK):
        return f"a byte order mark stands before the path: {path.lstrip(MARK)!r}"
    bare = path.strip().strip(QUOTES).strip()
    if bare != path.strip():
        return f"without the quotes: {bare!r}" if bare else None
    if bare != path and there(bare):
        return f"without the blanks around it: {bare!r}"
    if path.startswith("~"):
        return f"~ was not expanded: {os.path.expanduser(path)!r}; the shell does it without quotes"
    if (expanded := os.path.expandvars(path)) != path:
        return f"the variable was not expanded: {expanded!r}"
    if re.search(r"%\w+%|\$\w+|\$\{\w+\}", path):
        return "the variable in it has no value here"
    if _DRIVE.match(path):
        drive, rest = path[0].lower(), path[3:].replace("\\", "/")
        return f"this is a path of Windows; in WSL it is /mnt/{drive}/{rest}"
    if "\\" in path:
        return f"with slashes instead of backslashes: {path.replace(chr(92), '/')!r}"
    if any(mark in path for mark in "*?"):
        return "a pattern is no source: give the folder, or find ... | fungi extract - STORE"
    return None


def source_hint(source: str, kind: Modality) -> str | None:
    """Return what to do with a file that is no source, by its name."""
    suffix = suffix_of(source)
    if is_shard_name(source):
        return f"unpack it (tar xf {quote(source)}), and give the folder"
    if suffix in _ARCHIVES:
        return f"unpack it ({_ARCHIVES[suffix]} {quote(source)}), and give what was in it"
    if suffix in kind.suffixes:
        return (
            f"for single {kind.items}, give the folder that holds them, or their paths on stdin: "
            f"echo {quote(source)} | fungi extract - STORE"
        )
    if suffix in _LISTS:
        return f"a list of paths comes on stdin: fungi extract - STORE < {quote(source)}"
    if suffix in _SHEETS:
        return "save the sheet as .csv, with a column `path`"
    if suffix == "json":
        return _json_hint(source)
    if suffix in _TABLES:
        return "convert it to a .csv or .parquet manifest with a column `path` (pandas: to_parquet)"
    if suffix in _VECTORS:
        return f"vectors that exist already are taken by fungi import {quote(source)} STORE"
    if suffix == "npz":
        return (
            "no array of it is of images, [n, h, w] or with channels, in one of the names that are "
            "known; vectors that numpy.save has saved are taken by fungi import FILE.npy STORE"
        )
    return _kind_hint({suffix}, kind)


def _json_hint(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(1 << 20)
    known = "COCO's annotations are" if b'"annotations"' in head else "JSON is"
    return (
        f"{known} not read: write a .csv or .jsonl manifest of them, with columns path, label and "
        "split (pandas: DataFrame(...).to_csv; of a list of objects: jq -c '.[]')"
    )


def empty_hint(root: str, ignored: Mapping[str, int], kind: Modality) -> str:
    """Return what to do with a source that has nothing of a kind, by what it has instead."""
    suffixes = {word.removeprefix(".") for word in ignored}
    if tars := [place for place in _folders(root) if any(map(is_shard_name, _names(place)))]:
        return f"the shards are in folders of it: give one of them, such as {quote(tars[0])}"
    if any(is_shard_name(f"x.{suffix}") for suffix in suffixes):
        return f"shards beside other files are passed over: give {quote(root)}/{{000..012}}.tar"
    if hint := _kind_hint(suffixes, kind):
        return hint
    if suffixes & set(_ARCHIVES):
        return "unpack the archives in it"
    if suffixes & {"csv", "parquet", "tsv", "jsonl", "ndjson"}:
        return "give the manifest in it, instead of its folder"
    if "without a suffix" in ignored:
        return "files need a suffix to be known in a folder; a manifest may name any file"
    if not ignored:
        return "the folder is empty: check the path, and whether a disk is mounted there"
    return "see `fungi extract --help` for what a SOURCE can be"


def _kind_hint(suffixes: set[str], kind: Modality) -> str | None:
    if suffixes & set(RAW):
        return "RAW photographs are not read: convert them to JPEG, PNG or TIFF first"
    for suffix in sorted(suffixes):
        if absent := absent_format(suffix):
            return f"{absent.name} is read with {absent.how}"
    if kind.name == AUDIO and (sounds := suffixes & {*VIDEOS, *_OTHER_SOUNDS}):
        one = min(sounds)
        return f"sounds of the kind .{one} are not read: take them out (ffmpeg -i A.{one} A.flac)"
    if suffixes & set(VIDEOS):
        return "videos are not read: take their frames out first (ffmpeg -i VIDEO frames/%06d.png)"
    if suffixes & {"pdf", "svg", "eps"}:
        return "drawings and pages are not read: render them to PNG first"
    others = (find_modality(name) for name in MODALITIES.own if name != kind.name)
    known = next((other.items for other in others if suffixes & other.suffixes), None)
    return known and f"{known} are taken by a --model of {known}: fungi models"


def common_reason(root: str, paths: Iterable[str], kind: Modality) -> str | None:
    """Return why no file of a list was found, if the paths tell.

    Args:
        root: what they start from.
        paths: some of them, as they were written.
        kind: what they should be.
    """
    if is_url(root):
        return None
    for path in paths:
        if os.path.exists(os.path.join(root, path)):
            return None
        for hint in (path_hint(path, root), _elsewhere(root, path, kind)):
            if hint is not None:
                return f"{path!r}: {hint}"
    return None


def _elsewhere(root: str, path: str, kind: Modality) -> str | None:
    """Return where a file is that is not where a path says."""
    if os.path.isabs(path):
        return None
    for suffix in sorted(kind.suffixes):
        if os.path.exists(os.path.join(root, f"{path}.{suffix}")):
            return f"there is such a file with a suffix, .{suffix}: write it into the paths"
    folder, name = os.path.split(os.path.join(root, path))
    for other in _names(folder):
        if other.casefold() == name.casefold():
            return f"there is {other!r}: letters of another case are another name"
    places = [os.path.dirname(root), os.getcwd(), *_folders(root), *_folders(os.path.dirname(root))]
    for place in places:
        if os.path.exists(os.path.join(place, path)):
            said = os.path.relpath(place, root)
            return f"it is there below {said}: paths start from {root}"
    _, slash, rest = path.partition("/")
    if slash and os.path.exists(os.path.join(root, rest)):
        return f"it is there as {rest!r}: paths start from {root}"
    return None


def _names(folder: str) -> Sequence[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, LISTED)]
    except (OSError, ValueError):
        return ()


def _folders(folder: str) -> Iterator[str]:
    places = (os.path.join(folder, name) for name in sorted(_names(folder)))
    return (place for place in places if Path(place).is_dir())
