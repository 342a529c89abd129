"""Which arrays a store has, and whether zarr's metadata say what setups and records say."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fungistore.choices import Codec
from fungistore.errors import StoreError
from fungistore.fingerprint import Config, fingerprint
from fungistore.matrices.blocks import PCA
from fungistore.store.durable import PARTIAL
from fungistore.store.store import Store
from fungistore.store.units import (
    COMMITS,
    FEATURES,
    METADATA,
    RECORD_NAME,
    UnitArray,
    parse_commit,
)
from fungistore.verification.commands import command_for_array
from fungistore.verification.findings import Finding, Remedy

CHUNKS = "c"  # zarr's folder of an array's chunks
GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
CODECS = ("none", "zstd", "bitround")


@dataclass(frozen=True)
class StoredArray:
    """An array with the records that are beside it.

    Attributes:
        array: it.
        records: paths of the records by unit, sound or not.
    """

    array: UnitArray
    records: dict[int, Path]


@dataclass(frozen=True)
class Layout:
    """The arrays of a store.

    Attributes:
        arrays: those that are as they should be.
        lost: names of the others: what was made from them cannot be judged.
        findings: what is wrong with these.
    """

    arrays: tuple[StoredArray, ...]
    lost: frozenset[str]
    findings: tuple[Finding, ...]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each array by its name."""
        return {stored.array.name: stored.array.fingerprint for stored in self.arrays}


def read_layout(store: Store, samples: int | None) -> Layout:
    """Find the arrays of a store and compare their metadata with setups and records.

    Args:
        store: the store.
        samples: rows of its sample table, None where that is damaged.
    """
    features, commits = store.root / FEATURES, store.root / COMMITS
    recorded = {path.relative_to(commits).as_posix(): path for path in _record_folders(commits)}
    arrays: list[StoredArray] = []
    findings: list[Finding] = []
    seen = set()
    for folder, below, files in os.walk(features):
        below[:] = sorted(name for name in below if not name.endswith(PARTIAL))
        path = Path(folder)
        name = path.relative_to(features).as_posix()
        document = _read(path / METADATA)
        says = document.get("node_type") if document else None
        is_array = name in recorded or CHUNKS in below or says == "array"
        if name != "." and is_array:
            below.clear()
            seen.add(name)
            records = _records(recorded.get(name))
            opened, problems = _examine(store, name, document, records, samples)
            findings += problems
            if opened is not None:
                arrays.append(StoredArray(opened, records))
        elif (below or files) and (
            document is None or says != "group" or document.get("zarr_format") != 3
        ):  # an empty folder is a kill before its first file
            findings.append(_group(store, path))
    for name in sorted(recorded.keys() - seen):
        findings.append(_without_array(store, name, recorded[name], samples))
    for name, path in recorded.items():
        findings += _stray_records(store, name, path)
    lost = (recorded.keys() | seen) - {stored.array.name for stored in arrays}
    return Layout(tuple(arrays), frozenset(lost), tuple(findings))


def _examine(
    store: Store,
    name: str,
    document: Config | None,
    records: dict[int, Path],
    samples: int | None,
) -> tuple[UnitArray | None, list[Finding]]:
    """Open an array and compare it with what it should be."""
    where = f"{FEATURES}/{name}/{METADATA}"
    made_with, last = _from_records(records)
    try:
        array, trouble = UnitArray(store.root, name), ""
    except StoreError as error:
        array, trouble = None, _one_line(error.found)
    expected = _expected(store, name, array, document, made_with, last, samples)
    if array is not None:
        if expected is None:
            return array, []
        now, right = array.array.metadata.to_dict(), expected[1]
        changed = [key for key in right if repr(now.get(key)) != repr(right[key])]
        if not changed:
            return array, []
        trouble = "; ".join(f"{key} {now.get(key)!r}, not {right[key]!r}" for key in changed)
    then = command_for_array(store, name, made_with or "")
    folder = store.root / FEATURES / name
    if expected is not None:
        remedy = Remedy(
            "written anew from its setup and records", write=((folder / METADATA, expected[0]),)
        )
    else:
        remedy = Remedy(
            "the array is removed, so that all its units are computed again",
            remove=(store.root / COMMITS / name, folder),
            then=then,
        )
    finding = Finding(
        "array-damaged", where, "zarr metadata as they were written", trouble, "error", remedy
    )
    return None, [finding]


def _expected(
    store: Store,
    name: str,
    array: UnitArray | None,
    document: Config | None,
    made_with: str | None,
    last: int,
    samples: int | None,
) -> tuple[bytes, dict[str, Any]] | None:
    """Return what the metadata should be, as bytes and parsed; None where nothing tells."""
    key = made_with or (array.fingerprint if array is not None else None)
    try:
        config = store.setups.config(key) if key else {}
    except StoreError:
        config = {}
    if key and config and fingerprint(config) != key:
        config = {}  # a damaged setup, which has its own finding, must not condemn its arrays
    now = _plain_fields(document) | ({} if array is None else _fields(array))
    now |= _from_setup(name.partition("/")[2], config)
    shape = now.get("shape")
    if not shape or not {"dtype", "unit_rows", "codec"} <= now.keys():
        return None
    least = last * now["unit_rows"] + 1  # fewer would lose a unit; the next run makes it longer
    most = shape[0] if samples is None else samples
    rows = max(min(shape[0], most), least)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            made = UnitArray.create(
                Path(scratch),
                name,
                shape=(rows, *shape[1:]),
                dtype=now["dtype"],
                unit_rows=now["unit_rows"],
                codec=cast(Codec, now["codec"]),
                fingerprint=cast(str, key),
            )
        except Exception:  # the fields come from damaged files; zarr raises whatever it likes
            return None
        data = Path(scratch, FEATURES, name, METADATA).read_bytes()
        return data, made.array.metadata.to_dict()


def _from_setup(feature: str, config: Config) -> Config:
    """Return the fields of an array that its setup decides."""
    made, layout, vectors = (config.get(key) for key in ("pca", "layout", "vectors"))
    fields: Config = {}
    if feature.startswith(PCA) and isinstance(made, dict):
        fields = {key: made.get(key) for key in ("dtype", "unit_rows", "codec")}
    elif isinstance(layout, dict):
        fields = {key: layout.get(key) for key in ("unit_rows", "codec")}
        if fields["codec"] == "bitround" and feature != "patches":
            fields["codec"] = "zstd"
        if isinstance(vectors, dict) and not feature.startswith("norms/"):
            fields["dtype"] = vectors.get("dtype")
    return _usable(fields)


def _usable(fields: Config) -> Config:
    """Return the fields whose values an array can have."""
    rows, dtype, codec = (fields.get(key) for key in ("unit_rows", "dtype", "codec"))
    found: Config = {"unit_rows": rows} if type(rows) is int and rows > 0 else {}
    found |= {"dtype": dtype} if dtype in ("float16", "float32") else {}
    return found | ({"codec": codec} if codec in CODECS else {})


def _fields(array: UnitArray) -> Config:
    fields = {"dtype": str(array.array.dtype), "codec": array.codec, "unit_rows": array.unit_rows}
    return {"shape": tuple(array.array.shape)} | _usable(fields)


def _plain_fields(document: Config | None) -> Config:
    """Return what can still be read of metadata that zarr refuses."""
    shape = (document or {}).get("shape")
    is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    dtype = (document or {}).get("data_type")
    found: Config = {"shape": tuple(shape)} if shape and is_shape else {}
    return found | ({"dtype": dtype} if dtype in ("float16", "float32") else {})


def _from_records(records: dict[int, Path]) -> tuple[str | None, int]:
    """Return the fingerprint that most records have, and the last unit with a record, or -1."""
    votes: Counter[str] = Counter()
    last = -1
    for unit, path in records.items():
        try:
            commit = parse_commit(path.read_bytes())
        except (OSError, ValueError):
            continue
        if commit.unit == unit and commit.rows > 0:
            votes[commit.fingerprint] += 1
            last = max(last, unit)
    return (votes.most_common(1)[0][0] if votes else None), last


def _group(store: Store, path: Path) -> Finding:
    data = json.dumps(GROUP, indent=2).encode()
    return Finding(
        "group-damaged",
        (path / METADATA).relative_to(store.root).as_posix(),
        "the metadata of a zarr group",
        "damaged" if (path / METADATA).exists() else "missing",
        remedy=Remedy("written anew", write=((path / METADATA, data),)),
    )


def _without_array(store: Store, name: str, folder: Path, samples: int | None) -> Finding:
    made_with, _ = _from_records(_records(folder))
    return Finding(
        "array-missing",
        f"{FEATURES}/{name}",
        f"the array of the records in {COMMITS}/{name}",
        "no such array",
        remedy=Remedy(
            "its records are removed, so that it is computed again",
            remove=(folder,),
            then=command_for_array(store, name, made_with or ""),
        ),
    )


def _stray_records(store: Store, name: str, folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.iterdir()):
        is_record = path.suffix == ".json" and RECORD_NAME.fullmatch(path.stem)
        if path.is_file() and not is_record and not path.name.endswith(PARTIAL):
            yield Finding(
                "record-stray",
                path.relative_to(store.root).as_posix(),
                "records named by their unit, such as 00000000.json",
                "another file",
                "warning",
                Remedy("removed", remove=(path,)),
            )


def _record_folders(commits: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(commits):
        below[:] = [name for name in below if not name.endswith(PARTIAL)]
        if any(name.endswith(".json") for name in files):
            yield Path(folder)


def _records(folder: Path | None) -> dict[int, Path]:
    paths = sorted(folder.glob("*.json")) if folder else []
    return {int(path.stem): path for path in paths if RECORD_NAME.fullmatch(path.stem)}


def _read(path: Path) -> Config | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _one_line(found: object) -> str:
    lines = str(found).splitlines()
    return lines[0] if lines else type(found).__name__
