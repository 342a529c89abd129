"""What later stages made: PCAs, indexes, heads and evaluations against what they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote

from fungistore.errors import FungiError, StoreError
from fungistore.evaluation.result import EVALS, KEY_DIGITS
from fungistore.fingerprint import Config, fingerprint
from fungistore.indexing.record import INDEXES, RECORD, IndexRecord, checked_file, read_record
from fungistore.loff.head_folder import HEADS, head_run
from fungistore.machine.context import Context
from fungistore.names import is_file_name
from fungistore.quantities import counted
from fungistore.store.backend import Listing
from fungistore.store.contents import contents_in
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.documents import seal_is_broken
from fungistore.store.folder import Folder
from fungistore.store.records import named
from fungistore.store.references import is_same
from fungistore.store.store import Store
from fungistore.training.run_folder import CHECKSUMS, CONFIG, STATE, RunFolder
from fungistore.verification.arrays import StoredArrays
from fungistore.verification.commands import command_for_array, command_for_index
from fungistore.verification.findings import (
    Finding,
    FindingKind,
    Remedy,
    Severity,
    first_line,
    readable,
)


def check_derived(
    store: Store, arrays: StoredArrays, bad_units: frozenset[str]
) -> Iterator[Finding]:
    """Compare what each PCA and each bank was made of with the arrays that are there."""
    for stored in arrays.arrays:
        try:
            config = store.setups.config(stored.array.fingerprint)
        except (StoreError, OSError):
            continue  # the setup has its own finding
        made = config.get("pca", config.get("bank"))
        if not isinstance(made, dict):
            continue
        kind: FindingKind = "pca-stale" if "pca" in config else "bank-stale"
        changed, severity = _changed(made.get("inputs"), arrays)
        name = stored.array.name
        command = command_for_array(store, name, stored.array.fingerprint)
        if changed:
            yield Finding(
                kind,
                f"features.zarr/{name}",
                "the arrays that it was made of",
                changed,
                severity,
                advice=f"extract them as they were, or make it anew: {command} --restart",
            )
        elif rows := _changed_rows(made, arrays, bad_units):
            yield Finding(
                kind,
                f"features.zarr/{name}",
                "the rows that it was made of",
                rows,
                "warning",
                advice=f"keep it, or make it anew: {command} --restart",
            )
        if not changed and (units := _out_of_date(arrays, name, bad_units)):
            yield Finding(
                kind,
                f"features.zarr/{name}",
                "what the rows that are there give",
                units,
                "warning",
                advice=f"make them once more: {command}",
            )


def check_indexes(
    store: Store,
    arrays: StoredArrays,
    bad_units: frozenset[str],
    context: Context,
) -> Iterator[Finding]:
    """Check each index: its record, its files' checksums, and what it was made from.

    Args:
        store: the store.
        arrays: those that are there.
        bad_units: names of arrays with damaged units, whose content says nothing for now.
        context: its stop is asked before each index.
    """
    for folder in _folders(store, INDEXES):
        context.stop_if_asked()
        found = _check_index(store, folder, arrays, bad_units)
        yield from readable(store.backend, folder.key, found)


def check_heads(
    store: Store, arrays: StoredArrays, bad_units: frozenset[str], context: Context
) -> Iterator[Finding]:
    """Check each head: its configuration, its state, its weights, and what it was trained on."""
    for folder in _folders(store, HEADS):
        context.stop_if_asked()
        yield from readable(
            store.backend, folder.key, _check_head(store, folder, arrays, bad_units)
        )


def check_evals(store: Store, arrays: StoredArrays, bad_units: frozenset[str]) -> Iterator[Finding]:
    """Check each saved evaluation; one of other features than those that are there is stale."""
    folder = store.folder(EVALS)
    for name in folder.list().files:
        if not name.endswith(".json"):
            continue
        found = _check_eval(folder, name, arrays, bad_units)
        yield from readable(store.backend, folder.key_of(name), found)


def _check_index(
    store: Store, folder: Folder, arrays: StoredArrays, bad_units: frozenset[str]
) -> Iterator[Finding]:
    names = (folder.parent.name, folder.name)
    try:
        record = read_record(folder)
    except StoreError as error:
        yield _damaged_index(store, names, folder, "a record", error.found, None)
        return
    if record is None:
        again = command_for_index(store, *names, record)
        yield Finding(
            "index-damaged",
            folder.key,
            f"an {RECORD}; a kill before the first one leaves none",
            "files without it",
            "warning",
            Remedy("removed", remove=(folder.key,), then=again),
        )
        return
    document = json.loads(folder.read(RECORD))
    if seal_is_broken(document) or (record.feature_set, record.name) != names:
        expected = "a record as it was written"
        yield _damaged_index(store, names, folder, expected, "edited fields", record)
    elif problem := _wrong_index_file(folder, record):
        yield _damaged_index(store, names, folder, "files as they were written", problem, record)
    else:
        yield from _strays_of_index(folder, record)
        yield from _stale_index(store, folder, record, arrays, bad_units)


def _check_head(
    store: Store, folder: Folder, arrays: StoredArrays, bad_units: frozenset[str]
) -> Iterator[Finding]:
    run = head_run(store, folder.parent.name, folder.name)
    command = f"fungi train-loff {quote(store.where)} --name {folder.name}"
    where, again = folder.key, f"{command} with its options and --restart"
    try:
        config = run.config()
        problem = wrong_run(run, config)
    except FungiError as error:
        problem = f"{error.what}: {first_line(error.found)}"
        config = None
    if problem:
        expected = "the run as it was written"
        yield Finding("head-damaged", where, expected, problem, advice=f"train it again: {again}")
    elif config is None:
        yield Finding("head-damaged", where, CONFIG, "missing", "warning", advice=again)
    else:
        changed, severity = _changed(config.get("inputs"), arrays)
        expected, advice = "the features that it was trained on", f"train it again: {again}"
        if changed:
            yield Finding("head-stale", where, expected, changed, severity, advice=advice)
        elif rows := _changed_rows(config, arrays, bad_units):
            expected = "the rows that it was trained on"
            yield Finding("head-stale", where, expected, rows, "warning", advice=advice)


def _check_eval(
    folder: Folder, name: str, arrays: StoredArrays, bad_units: frozenset[str]
) -> Iterator[Finding]:
    where = folder.key_of(name)
    problem, scores = _read_eval(folder, name)
    if problem:
        yield Finding(
            "eval-damaged",
            where,
            "an evaluation as it was written",
            problem,
            remedy=Remedy("removed", remove=(where,), then="the same fungi eval command"),
        )
        return
    changed = [_changed(score["fingerprints"], arrays)[0] for score in scores]
    if not any(changed):
        changed = list(dict.fromkeys(_changed_rows(score, arrays, bad_units) for score in scores))
    if any(changed):
        yield Finding(
            "eval-stale",
            where,
            "the features that it was made from",
            "; ".join(filter(None, changed)),
            "warning",
            advice="evaluate again, or keep it as a result of what was there",
        )


def _changed(made_from: object, arrays: StoredArrays) -> tuple[str, Severity]:
    """Say which arrays are not those that something was made from, "" if all are.

    A damaged array says nothing: once it is repaired, it is what it was. One that is gone may come
    back the same, so that alone is a warning.
    """
    if not isinstance(made_from, dict):
        return "it does not say what it was made from", "error"
    now = arrays.references
    others = {name: key for name, key in made_from.items() if name not in arrays.lost}
    said = [
        f"{name} is {now.get(name, 'gone')}, not {key}"
        for name, key in others.items()
        if name not in now or not is_same(now[name], key)
    ]
    is_other = any(not is_same(now.get(name, key), key) for name, key in others.items())
    return "; ".join(said), "error" if is_other else "warning"


def _changed_rows(document: Config, arrays: StoredArrays, bad_units: frozenset[str]) -> str:
    """Say of which arrays rows are not those that something was made from, "" if all are.

    Rows that are damaged, or not there, say nothing: made again, they are what they were.
    """
    try:
        states = arrays.commits.states(contents_in(document, ""))
    except StoreError as error:
        return f"{error.what}: {first_line(error.found)}"
    anew = [name for name in named(states, "anew") if name not in bad_units]
    return f"rows of {', '.join(anew)} were made anew since" if anew else ""


def _out_of_date(arrays: StoredArrays, name: str, bad_units: frozenset[str]) -> str:
    """Say how many units of a PCA were made from rows that are others now, "" if none were."""
    units = arrays.commits.out_of_date(name).values()
    told = [others for names in units if (others := set(names) - bad_units)]
    of = ", ".join(sorted(set().union(*told)))
    return f"{counted(len(told), 'unit')} of rows of {of} that were made anew since" if told else ""


def _damaged_index(
    store: Store,
    names: tuple[str, str],
    folder: Folder,
    expected: str,
    found: object,
    record: IndexRecord | None,
    kind: FindingKind = "index-damaged",
) -> Finding:
    return Finding(
        kind,
        folder.key,
        expected,
        first_line(found),
        remedy=Remedy(
            "removed",
            remove=(folder.key_of(RECORD), folder.key),
            then=command_for_index(store, *names, record),
        ),
    )


def _wrong_index_file(folder: Folder, record: IndexRecord) -> str | None:
    for kind, stored in record.files.items():
        try:
            size = checked_file(folder, record, kind).stat().st_size
        except (StoreError, ValueError) as error:
            found = error.found if isinstance(error, StoreError) else error
            return f"{stored.name}: {found}"
        if size != stored.bytes:
            return f"{stored.name}: {size} bytes, not {stored.bytes}"
    return None if "vectors" in record.files else "no vectors"


def _strays_of_index(folder: Folder, record: IndexRecord) -> Iterator[Finding]:
    named = {RECORD, *(file.name for file in record.files.values())}
    listing = folder.list()
    for name in (*listing.files, *listing.folders):
        if name not in named:
            key = folder.key_of(name)
            remedy = Remedy("removed", remove=(key,))
            yield Finding("orphan", key, "files of the record", "another", "warning", remedy)


def _stale_index(
    store: Store,
    folder: Folder,
    record: IndexRecord,
    arrays: StoredArrays,
    bad_units: frozenset[str],
) -> Iterator[Finding]:
    names = (record.feature_set, record.name)
    expected = "the features that it was made from"
    where = folder.key
    changed, severity = _changed(dict(record.fingerprints), arrays)
    if record.store != store.manifest.id:
        changed, severity = f"another store, {record.store}", "error"
    if record.rows_done > len(store.samples):
        changed = f"{counted(record.rows_done, 'row')}, of a table that has {len(store.samples)}"
        severity = "error"
    if changed and severity == "warning":
        advice = "extract them again"
        yield Finding("index-stale", where, expected, changed, severity, advice=advice)
        return
    if changed:
        yield _damaged_index(store, names, folder, expected, changed, record, "index-stale")
        return
    if (bad_units | arrays.lost) & record.fingerprints.keys():
        return  # to be judged when they are repaired
    states = arrays.commits.states(record.contents)
    if anew := named(states, "anew"):
        found = f"rows of {', '.join(anew)} were made anew since"
        yield _damaged_index(store, names, folder, expected, found, record, "index-stale")
    elif gone := named(states, "gone"):
        found = f"units of {', '.join(gone)} are not there"
        advice = "make them again: fungi extract, import or pca"
        yield Finding("index-stale", where, expected, found, "warning", advice=advice)


def wrong_run(run: RunFolder, config: Config | None) -> str | None:
    """Return what is wrong with a run's state and weights.

    Raises:
        StoreError: the state is damaged.
    """
    if config is None or not run.folder.has(STATE):
        return None
    progress = run.progress()
    document = json.loads(run.folder.read(STATE))
    if seal_is_broken(document):
        return f"{STATE} has edited fields"
    checksums = document.get(CHECKSUMS)
    if not isinstance(checksums, dict) or not {CONFIG, progress.file} <= checksums.keys():
        return f"{STATE} has not the checksums of its files"
    for name, right in checksums.items():
        if not is_file_name(name):
            return f"{STATE} has the checksum of a file at {name!r}"
        try:
            found = run.folder.digest(name)
        except (OSError, ValueError) as error:
            raise_unreadable(error)
            return f"{name}: {error}"
        if found != right:
            return f"{name} has the checksum {found}, not {right}"
    return None


def _read_eval(folder: Folder, name: str) -> tuple[str, list[Config]]:
    """Return what is wrong with an evaluation's file, and its scores."""
    try:
        document = json.loads(folder.read(name))
        scores, protocol = document["scores"], document["protocol"]
        sources = [score["fingerprints"] for score in scores]
        key = fingerprint({"protocol": protocol, "sources": sources})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise_unreadable(error)
        return f"{type(error).__name__}: {first_line(error)}", []
    if not name.endswith(f"-{key[:KEY_DIGITS]}.json"):
        return f"protocol and fingerprints of the key {key[:KEY_DIGITS]}", []
    if seal_is_broken(document):
        return "edited fields: its scores need not be those that were measured", []
    return "", scores


def _folders(store: Store, kind: str) -> list[Folder]:
    """Return the folders `<kind>/<feature set>/<name>`."""
    sets = store.folder(kind).below()
    below = [(folder, each.folders()) for each in sets for folder in each.below()]
    return [folder for folder, own in below if folder in own or folder.list() != Listing()]
