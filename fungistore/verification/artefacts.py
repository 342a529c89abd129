"""What later stages made: PCAs, indexes, heads and evaluations against what they were made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungistore.errors import FungiError, StoreError
from fungistore.evaluation.result import EVALS
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.names import is_file_name
from fungistore.store.durable import PARTIAL, file_digest
from fungistore.store.seal import seal_is_broken
from fungistore.store.store import Store
from fungistore.verification.commands import command_for_array, command_for_index
from fungistore.verification.findings import Finding, Kind, Remedy, Severity
from fungistore.verification.layout import Layout

if TYPE_CHECKING:
    from fungistore.indexing.record import IndexRecord

INDEXES, HEADS = "indexes", "heads"
KEY_DIGITS = 16  # of an evaluation's fingerprint, in its file's name


def check_pcas(store: Store, layout: Layout) -> Iterator[Finding]:
    """Compare the inputs that each PCA was fitted on with the arrays that are there."""
    for stored in layout.arrays:
        try:
            made = store.setups.config(stored.array.fingerprint).get("pca")
        except StoreError:
            continue  # the setup has its own finding
        if not isinstance(made, dict):
            continue
        changed, severity = _changed(made.get("inputs"), layout)
        if changed:
            name = stored.array.name
            command = command_for_array(store, name, stored.array.fingerprint)
            yield Finding(
                "pca-stale",
                f"features.zarr/{name}",
                "the arrays that it was fitted on",
                changed,
                severity,
                advice=f"extract them as they were, or fit it anew: {command} --restart",
            )


def check_indexes(
    store: Store,
    layout: Layout,
    bad_units: frozenset[str],
    context: Context,
) -> Iterator[Finding]:
    """Check each index: its record, its files' checksums, and what it was made from.

    Args:
        store: the store.
        layout: the arrays that are there.
        bad_units: names of arrays with damaged units, whose content says nothing for now.
        stop: asked before each index.
    """
    if not (store.root / INDEXES).is_dir():
        return
    from fungistore.indexing.record import RECORD, read_record  # loads faiss

    for folder in _folders(store.root / INDEXES):
        context.stop_if_asked()
        where = folder.relative_to(store.root).as_posix()
        names = (folder.parent.name, folder.name)
        try:
            record = read_record(folder)
        except StoreError as error:
            yield _damaged_index(store, names, folder, "a record", error.found, None)
            continue
        if record is None:
            yield Finding(
                "index-damaged",
                where,
                f"an {RECORD}; a kill before the first one leaves none",
                "files without it",
                "warning",
                Remedy("removed", remove=(folder,), then=command_for_index(store, *names, record)),
            )
            continue
        document = json.loads((folder / RECORD).read_bytes())
        if seal_is_broken(document) or (record.feature_set, record.name) != names:
            expected = "a record as it was written"
            yield _damaged_index(store, names, folder, expected, "edited fields", record)
            continue
        if problem := _wrong_index_file(folder, record):
            yield _damaged_index(
                store, names, folder, "files as they were written", problem, record
            )
            continue
        yield from _strays_of_index(store, folder, {RECORD}, record)
        yield from _stale_index(store, folder, record, layout, bad_units)


def check_heads(store: Store, layout: Layout, context: Context) -> Iterator[Finding]:
    """Check each head: its configuration, its state, its weights, and what it was trained on."""
    if not (store.root / HEADS).is_dir():
        return
    from fungistore.loff.checkpoint import CONFIG, RunDirectory  # loads torch

    for folder in _folders(store.root / HEADS):
        context.stop_if_asked()
        run = RunDirectory(store, folder.parent.name, folder.name)
        again = f"fungi train-loff {store.root} --name {folder.name} with its options and --restart"
        where = folder.relative_to(store.root).as_posix()
        try:
            config = run.config()
            problem = _wrong_head(run, config)
        except FungiError as error:
            problem = f"{error.what}: {_line(error.found)}"
            config = None
        if problem:
            expected = "the run as it was written"
            yield Finding(
                "head-damaged", where, expected, problem, advice=f"train it again: {again}"
            )
        elif config is None:
            yield Finding("head-damaged", where, CONFIG, "missing", "warning", advice=again)
        else:
            changed, severity = _changed(config.get("inputs"), layout)
            expected, advice = "the features that it was trained on", f"train it again: {again}"
            if changed:
                yield Finding("head-stale", where, expected, changed, severity, advice=advice)


def check_evals(store: Store, layout: Layout) -> Iterator[Finding]:
    """Check each saved evaluation; one of other features than those that are there is stale."""
    for path in sorted((store.root / EVALS).glob("*.json")):
        where = path.relative_to(store.root).as_posix()
        problem, sources = _read_eval(path)
        if problem:
            yield Finding(
                "eval-damaged",
                where,
                "an evaluation as it was written",
                problem,
                remedy=Remedy("removed", remove=(path,), then="the same fungi eval command"),
            )
            continue
        changed = "; ".join(filter(None, (_changed(source, layout)[0] for source in sources)))
        if changed:
            yield Finding(
                "eval-stale",
                where,
                "the features that it was made from",
                changed,
                "warning",
                advice="evaluate again, or keep it as a result of what was there",
            )


def _changed(made_from: object, layout: Layout) -> tuple[str, Severity]:
    """Say which arrays are not those that something was made from, "" if all are.

    A damaged array says nothing: once it is repaired, it is what it was. One that is gone may come
    back the same, so that alone is a warning.
    """
    if not isinstance(made_from, dict):
        return "it does not say what it was made from", "error"
    now = layout.fingerprints
    others = {name: key for name, key in made_from.items() if name not in layout.lost}
    said = [
        f"{name} is {now.get(name, 'gone')}, not {key}"
        for name, key in others.items()
        if now.get(name) != key
    ]
    is_other = any(now.get(name, key) != key for name, key in others.items())
    return "; ".join(said), "error" if is_other else "warning"


def _damaged_index(
    store: Store,
    names: tuple[str, str],
    folder: Path,
    expected: str,
    found: object,
    record: IndexRecord | None,
    kind: Kind = "index-damaged",
) -> Finding:
    return Finding(
        kind,
        folder.relative_to(store.root).as_posix(),
        expected,
        _line(found),
        remedy=Remedy(
            "removed",
            remove=(folder / "index.json", folder),
            then=command_for_index(store, *names, record),
        ),
    )


def _wrong_index_file(folder: Path, record: IndexRecord) -> str | None:
    from fungistore.indexing.record import checked_file

    for kind, stored in record.files.items():
        try:
            size = checked_file(folder, record, kind).stat().st_size
        except (StoreError, ValueError) as error:
            found = error.found if isinstance(error, StoreError) else error
            return f"{stored.name}: {found}"
        if size != stored.bytes:
            return f"{stored.name}: {size} bytes, not {stored.bytes}"
    return None if "vectors" in record.files else "no vectors"


def _strays_of_index(
    store: Store, folder: Path, named: set[str], record: IndexRecord
) -> Iterator[Finding]:
    named |= {file.name for file in record.files.values()}
    for path in sorted(folder.iterdir()):
        if path.name not in named and not path.name.endswith(PARTIAL):
            where = path.relative_to(store.root).as_posix()
            remedy = Remedy("removed", remove=(path,))
            yield Finding("orphan", where, "files of the record", "another", "warning", remedy)


def _stale_index(
    store: Store,
    folder: Path,
    record: IndexRecord,
    layout: Layout,
    bad_units: frozenset[str],
) -> Iterator[Finding]:
    from fungistore.indexing.rows import content_digest

    names = (record.feature_set, record.name)
    expected = "the features that it was made from"
    where = folder.relative_to(store.root).as_posix()
    changed, severity = _changed(dict(record.fingerprints), layout)
    if record.store != store.manifest.id:
        changed, severity = f"another store, {record.store}", "error"
    if record.rows_done > len(store.samples):
        changed = f"{record.rows_done} rows, of a table that has {len(store.samples)}"
        severity = "error"
    if changed and severity == "warning":
        advice = "extract them again"
        yield Finding("index-stale", where, expected, changed, severity, advice=advice)
        return
    if changed:
        yield _damaged_index(store, names, folder, expected, changed, record, "index-stale")
        return
    if (bad_units | layout.lost) & record.fingerprints.keys():
        return  # to be judged when they are repaired
    arrays = {stored.array.name: stored.array for stored in layout.arrays}
    mine = tuple(arrays[name] for name in record.fingerprints)
    gone = sum(
        array.commit(unit) is None
        for array in mine
        for unit in range(min(record.rows_done, array.rows) // array.unit_rows)
    )
    if gone:
        found = f"{gone} of its units are not there"
        advice = "extract them again"
        yield Finding("index-stale", where, expected, found, "warning", advice=advice)
        return
    matrix = FeatureMatrix(store, record.feature_set, record.features, mine)
    content = content_digest(matrix, record.rows_done)
    if record.rows_done and content != record.content:
        found = f"content {content}, not {record.content}: rows were extracted anew since"
        yield _damaged_index(store, names, folder, expected, found, record, "index-stale")


def _wrong_head(run: Any, config: Config | None) -> str | None:
    """Return what is wrong with a run's state and weights.

    Raises:
        StoreError: they are damaged.
    """
    from fungistore.loff.checkpoint import CHECKSUMS, STATE

    path = run.path / STATE
    if config is None or not path.is_file():
        return None
    progress = run.progress()
    document = json.loads(path.read_bytes())
    if seal_is_broken(document):
        return f"{STATE} has edited fields"
    checksums = document.get(CHECKSUMS)
    for name, right in checksums.items() if isinstance(checksums, dict) else ():
        if not is_file_name(name):
            return f"{STATE} has the checksum of a file at {name!r}"
        try:
            found = file_digest(run.path / name)
        except (OSError, ValueError) as error:
            return f"{name}: {error}"
        if found != right:
            return f"{name} has the checksum {found}, not {right}"
    if progress.file is not None:
        run.tensors(progress)
    return None


def _read_eval(path: Path) -> tuple[str, list[object]]:
    """Return what is wrong with an evaluation's file, and what its scores were made from."""
    try:
        document = json.loads(path.read_bytes())
        scores, protocol = document["scores"], document["protocol"]
        sources = [score["fingerprints"] for score in scores]
        key = fingerprint({"protocol": protocol, "sources": sources})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"{type(error).__name__}: {_line(error)}", []
    if not path.stem.endswith(f"-{key[:KEY_DIGITS]}"):
        return f"protocol and fingerprints of the key {key[:KEY_DIGITS]}", []
    if seal_is_broken(document):
        return "edited fields: its scores need not be those that were measured", []
    return "", sources


def _folders(root: Path) -> list[Path]:
    """Return the folders `<feature set>/<name>` below a directory."""
    return sorted(
        path
        for path in root.glob("*/*")
        if path.is_dir() and not path.name.endswith(PARTIAL) and not path.match(f"*{PARTIAL}/*")
    )


def _line(found: object) -> str:
    lines = str(found).splitlines()
    return lines[0] if lines else type(found).__name__
