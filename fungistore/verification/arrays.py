"""Which arrays a store has, and whether zarr's metadata say what setups and records say."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fungistore.errors import StoreError
from fungistore.fingerprint import Config, fingerprint
from fungistore.store.backend import Listing
from fungistore.store.chunks import CODECS, METADATA, blank_array
from fungistore.store.commit import parse_commit, record_unit
from fungistore.store.disk_errors import is_unreadable, raise_unreadable
from fungistore.store.feature import BANK_LABELS, codec_of, is_derived, kind_of
from fungistore.store.folder import Folder
from fungistore.store.groups import GROUP, has_chunks, is_of_another, read_metadata
from fungistore.store.records import Records
from fungistore.store.store import Store
from fungistore.store.units import COMMITS, FEATURES, UnitArray
from fungistore.verification.commands import command_for_array
from fungistore.verification.findings import Finding, Remedy, first_line, not_mounted, unreadable
from fungistore.verification.recovered import Rows, proven_rows

DTYPES = ("float16", "float32")
STRAY = re.compile(r"\d+\.json")  # a number, as records have; of too few digits it is none


@dataclass(frozen=True)
class StoredArray:
    """An array with the records that are beside it.

    Attributes:
        array: it.
        records: keys of the records by unit, sound or not.
    """

    array: UnitArray
    records: dict[int, str]


@dataclass(frozen=True)
class StoredArrays:
    """The arrays of a store.

    Attributes:
        arrays: those that are as they should be.
        lost: names of the others: what was made from them cannot be judged.
        findings: what is wrong with these.
        references: how artefacts refer to each of them, by name.
        others: keys of what other programs, or users, put among them and their records.
    """

    arrays: tuple[StoredArray, ...]
    lost: frozenset[str]
    findings: tuple[Finding, ...]
    references: Mapping[str, str]
    others: tuple[str, ...]

    @cached_property
    def commits(self) -> Records:
        """Their records, read once for all that was made from them."""
        return Records(stored.array for stored in self.arrays)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each array by its name."""
        return {stored.array.name: stored.array.fingerprint for stored in self.arrays}


def read_arrays(store: Store, samples: int | None) -> StoredArrays:
    """Find the arrays of a store and compare their metadata with setups and records.

    Args:
        store: the store.
        samples: rows of its sample table, None where that is damaged.

    Raises:
        OSError: a folder of arrays or records cannot be listed, so nothing can be said of them.
    """
    commits = store.folder(COMMITS)
    recorded = {below.key.removeprefix(f"{commits.key}/"): below for below in _recorded(commits)}
    arrays: list[StoredArray] = []
    findings: list[Finding] = []
    others: list[str] = []
    no_groups: list[Folder] = []
    seen = set()
    to_see = [store.folder(FEATURES)]
    while to_see:
        folder = to_see.pop(0)
        name = folder.key.removeprefix(FEATURES).removeprefix("/")
        try:
            document = read_metadata(folder)
        except (OSError, MemoryError) as error:
            findings.append(unreadable(store.backend, folder.key_of(METADATA), error))
            if name in recorded or has_chunks(folder):
                seen.add(name)
            else:
                to_see[:0] = folder.folders()
            continue
        says = document.get("node_type") if document else None
        is_array = says == "array" or (says != "group" and has_chunks(folder))
        if name and is_array and name not in recorded and is_of_another(document):
            others.append(folder.key)
            continue
        if name and (is_array or name in recorded):
            seen.add(name)
            records = _records(recorded.get(name))
            try:
                opened, problems = _examine(store, name, document, records, samples)
            except (OSError, MemoryError) as error:
                opened, problems = None, [unreadable(store.backend, folder.key, error)]
            findings += problems
            if opened is not None:
                arrays.append(StoredArray(opened, records))
            continue
        to_see[:0] = folder.folders()
        if document is None or says != "group" or document.get("zarr_format") != 3:
            no_groups.append(folder)
    ours = recorded.keys() | seen
    for folder in no_groups:
        if folder.list() == Listing():  # a kill before its first file
            continue
        if folder.key == FEATURES or any(
            f"{FEATURES}/{x}/".startswith(f"{folder.key}/") for x in ours
        ):
            findings.append(_group(folder))
        elif folder.has(METADATA):
            findings.append(_no_group(folder))
        elif not any(folder.key.startswith(f"{other}/") for other in others):
            others.append(folder.key)
    for name in sorted(recorded.keys() - seen):
        away = not_mounted(store.backend, f"{FEATURES}/{name}", or_empty=True)
        findings.append(away or _without_array(store, name, recorded[name]))
    for below in recorded.values():
        findings += _stray_records(below)
        others += _other_files(below)
    lost = ours - {stored.array.name for stored in arrays}
    references = {s.array.name: _reference(store, s.array.fingerprint) for s in arrays}
    return StoredArrays(tuple(arrays), frozenset(lost), tuple(findings), references, tuple(others))


def _reference(store: Store, key: str) -> str:
    """Return how artefacts refer to a setup's arrays; without its bank where that is damaged."""
    try:
        return store.setups.reference(key)
    except StoreError:
        return key


def _examine(
    store: Store,
    name: str,
    document: Config | None,
    records: dict[int, str],
    samples: int | None,
) -> tuple[UnitArray | None, list[Finding]]:
    """Open an array and compare it with what it should be."""
    where = f"{FEATURES}/{name}/{METADATA}"
    made_with, last = _from_records(store, records)
    try:
        array, trouble = UnitArray(store.backend, name), ""
    except StoreError as error:
        array, trouble = None, first_line(error.found)
    expected = _expected(store, name, array, document, made_with, last, samples, {})
    if array is not None:
        if expected is None:
            return array, []
        now, right = array.array.metadata.to_dict(), expected[1]
        changed = [key for key in right if repr(now.get(key)) != repr(right[key])]
        if not changed:
            return array, []
        trouble = "; ".join(f"{key} {now.get(key)!r}, not {right[key]!r}" for key in changed)
    expected = _expected(store, name, array, document, made_with, last, samples, records)
    remedy, advice = None, None
    if expected is not None:
        remedy = Remedy("written anew from its setup and records", write=((where, expected[0]),))
    else:  # its chunks may be sound, or those of another program
        then = command_for_array(store, name, made_with or "")
        advice = (
            "restore the file from a copy of the store, or move the array's folder and that of "
            f"its records, {COMMITS}/{name}, out of the store: {then} makes it anew"
        )
    right_metadata = "zarr metadata as they were written"
    finding = Finding("array-damaged", where, right_metadata, trouble, "error", remedy, advice)
    return None, [finding]


def _expected(
    store: Store,
    name: str,
    array: UnitArray | None,
    document: Config | None,
    made_with: str | None,
    last: tuple[int, int],
    samples: int | None,
    records: dict[int, str],
) -> tuple[bytes, dict[str, Any]] | None:
    """Return what the metadata should be, as bytes and parsed; None where nothing tells.

    Where `records` are given, their chunks must prove it: wrong metadata would condemn them all.
    """
    key = made_with or (array.fingerprint if array is not None else None)
    try:
        config = store.setups.config(key) if key else {}
    except StoreError:
        config = {}
    if key and config and fingerprint(config) != key:
        config = {}  # a damaged setup, which has its own finding, must not condemn its arrays
    now = _plain_fields(document) | ({} if array is None else _fields(array))
    now |= _from_setup(name.partition("/")[2], config)
    if records and {"unit_rows", "codec"} <= now.keys():
        folder = store.folder(FEATURES, name)
        shards = now.get("shard_units", 1)
        rows = proven_rows(folder, records, now["unit_rows"], shards, now["codec"])
        now |= _proven(rows, now, 1 if samples is None else samples)
    shape = now.get("shape")
    if not shape or not {"dtype", "unit_rows", "codec"} <= now.keys():
        return None
    # fewer would lose a unit; the next run makes it longer
    least = last[0] * now["unit_rows"] + min(last[1], now["unit_rows"])
    most = shape[0] if samples is None else samples
    count = max(min(shape[0], most), least)
    attributes = {"fingerprint": key, "codec": now["codec"]}
    shape = (count, *shape[1:])
    try:
        units = now["unit_rows"], now.get("shard_units", 1)
        made, data = blank_array(shape, now["dtype"], *units, now["codec"], attributes)
    except Exception as error:  # the fields come from damaged files; zarr raises what it likes
        raise_unreadable(error)
        return None
    return data, made.metadata.to_dict()


def _proven(rows: Rows | None, fields: Config, count: int) -> Config:
    """Return shape and dtype as chunks prove them; no shape where they do not.

    Args:
        rows: how these are stored.
        fields: what else is known of the array.
        count: of its rows, unless a shape is among the fields.
    """
    shape = fields.get("shape") or (count,)
    if rows is None:
        return {"shape": None}
    if rows.dimensions == 1:
        fields = fields | {"dtype": {2: "float16", 4: "float32"}.get(rows.bytes)}
    if fields.get("dtype") not in DTYPES:
        return {"shape": None}
    width, rest = divmod(rows.bytes, np.dtype(fields["dtype"]).itemsize)
    if rows.dimensions == 2:
        shape = (shape[0], width)
    is_right = rows.dimensions == len(shape) and math.prod(shape[1:]) == width and not rest
    return {"dtype": fields["dtype"], "shape": tuple(shape) if is_right else None}


def _from_setup(path: str, config: Config) -> Config:
    """Return the fields of an array, by its path in the feature set, that its setup decides."""
    made, layout, vectors = (config.get(key) for key in ("pca", "layout", "vectors"))
    made = config.get("bank") if made is None else made
    fields: Config = {}
    if is_derived(path) and isinstance(made, dict):
        fields = {key: made.get(key) for key in ("dtype", "unit_rows", "shard_units", "codec")}
        if path.startswith(BANK_LABELS):
            fields["dtype"] = made.get("label_dtype")
    elif isinstance(layout, dict):
        fields = {key: layout.get(key) for key in ("unit_rows", "shard_units", "codec")}
        if fields["codec"] in CODECS:
            fields["codec"] = codec_of(path, fields["codec"])
        if isinstance(vectors, dict) and kind_of(path) != "numbers":
            fields["dtype"] = vectors.get("dtype")
    return _usable(fields)


def _usable(fields: Config) -> Config:
    """Return the fields whose values an array can have."""
    rows, dtype, codec = (fields.get(key) for key in ("unit_rows", "dtype", "codec"))
    found: Config = {"unit_rows": rows} if type(rows) is int and rows > 0 else {}
    shards = fields.get("shard_units")
    is_shard = type(shards) is int and shards > 0 and found.get("unit_rows", 1) % shards == 0
    found |= {"shard_units": shards} if found and is_shard else {}
    found |= {"dtype": dtype} if dtype in DTYPES else {}
    return found | ({"codec": codec} if codec in CODECS else {})


def _fields(array: UnitArray) -> Config:
    fields = {"dtype": str(array.array.dtype), "codec": array.codec, "unit_rows": array.unit_rows}
    fields["shard_units"] = array.shard_units
    return {"shape": tuple(array.array.shape)} | _usable(fields)


def _plain_fields(document: Config | None) -> Config:
    """Return what can still be read of metadata that zarr refuses."""
    shape = (document or {}).get("shape")
    is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    dtype = (document or {}).get("data_type")
    found: Config = {"shape": tuple(shape)} if shape and is_shape else {}
    return found | ({"dtype": dtype} if dtype in DTYPES else {})


def _from_records(store: Store, records: dict[int, str]) -> tuple[str | None, tuple[int, int]]:
    """Return the fingerprint that most records have, and the last unit with a record, its rows."""
    votes: Counter[str] = Counter()
    last = (0, 0)
    for unit, key in records.items():
        try:
            commit = parse_commit(store.backend.read(key))
        except (OSError, ValueError) as error:
            if is_unreadable(error):
                last = max(last, (unit, 1))  # it may be sound, so the array is as long at least
            continue
        if commit.unit == unit and commit.rows > 0:
            votes[commit.fingerprint] += 1
            last = max(last, (unit, commit.rows))
    return (votes.most_common(1)[0][0] if votes else None), last


def _group(folder: Folder) -> Finding:
    key = folder.key_of(METADATA)
    return Finding(
        "group-damaged",
        key,
        "the metadata of a zarr group",
        "damaged" if folder.has(METADATA) else "missing",
        remedy=Remedy("written anew", write=((key, GROUP),)),
    )


def _no_group(folder: Folder) -> Finding:
    """Tell of metadata that are none, where no array of this program is below."""
    return Finding(
        "group-damaged",
        folder.key_of(METADATA),
        "the metadata of a zarr group or array",
        "others, and nothing of this program below",
        advice="look at what it is, and move the folder out of the store",
    )


def _without_array(store: Store, name: str, folder: Folder) -> Finding:
    made_with, _ = _from_records(store, _records(folder))
    return Finding(
        "array-missing",
        f"{FEATURES}/{name}",
        f"the array of the records in {COMMITS}/{name}",
        "no such array",
        remedy=Remedy(
            "its records are removed, so that it is computed again",
            remove=(folder.key,),
            then=command_for_array(store, name, made_with or ""),
        ),
    )


def _stray_records(folder: Folder) -> Iterator[Finding]:
    for name in folder.list().files:
        if STRAY.fullmatch(name) and record_unit(name) is None:
            key = folder.key_of(name)
            yield Finding(
                "record-stray",
                key,
                "records named by their unit, such as 00000000.json",
                "another file",
                "warning",
                Remedy("removed", remove=(key,)),
            )


def _other_files(folder: Folder) -> Iterator[str]:
    """Yield the keys of the files beside records that no version of this program wrote."""
    for name in folder.list().files:
        if not STRAY.fullmatch(name):
            yield folder.key_of(name)


def _recorded(folder: Folder) -> Iterator[Folder]:
    """Yield the folders of records at or below one."""
    if any(record_unit(name) is not None for name in folder.list().files):
        yield folder
    for below in folder.folders():
        yield from _recorded(below)


def _records(folder: Folder | None) -> dict[int, str]:
    names = folder.list().files if folder else ()
    units = {record_unit(name): name for name in names}
    return {u: folder.key_of(name) for u, name in units.items() if folder and u is not None}
