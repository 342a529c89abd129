"""A store: one directory with samples, features, what they were made with, and failures."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fungistore.errors import FungiError, MismatchError, StoreError, UsageError
from fungistore.fingerprint import Config, describe, differences
from fungistore.machine.context import Context
from fungistore.modalities.modality import Modality, find_modality
from fungistore.sources.sample import Sample, Source
from fungistore.store.census import Comparison
from fungistore.store.disk_errors import NOT_WRITABLE
from fungistore.store.durable import (
    PARTIAL,
    make_directory,
    orphans,
    publish_bytes,
)
from fungistore.store.failures import (
    CHANGED_FILE,
    Failure,
    append_failures,
    compact_failures,
    read_failures,
)
from fungistore.store.locks import LOCKS, WHOLE, Slice, StoreLocks
from fungistore.store.manifest import (
    SCHEMA_VERSION,
    Manifest,
    parse_manifest,
    say_newer_minor,
)
from fungistore.store.samples import Part, SampleTable
from fungistore.store.setups import SETUPS, Setups
from fungistore.store.units import COMMITS, FEATURES, METADATA, UnitArray

MANIFEST = "store.json"
SAMPLES = "samples.parquet"
FAILURES = "failures.jsonl"
OTHERS_SHOWN = 3
DERIVED = ("gradient.projection.first_block",)  # differs wherever the seed does: not worth showing


class Store:
    """An open store; use `Store.open` or `Store.open_or_create`.

    Args:
        root: its directory.
        manifest: the contents of its `store.json`.

    Attributes:
        setups: what its features were made with.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self.setups = Setups(root / SETUPS)
        self._locks = StoreLocks(root)
        self._held: frozenset[str] = frozenset()

    @staticmethod
    def exists(root: str | Path) -> bool:
        """Whether a store, whatever its state, is at `root`."""
        return Path(root, MANIFEST).is_file()

    @classmethod
    def open(cls, root: str | Path) -> Store:
        """Open an existing store.

        Raises:
            UsageError: there is none.
            StoreError: its manifest is damaged, or of another major schema.
        """
        root = Path(root)
        path = root / MANIFEST
        _refuse_odd_path(root)
        if not cls.exists(root):
            raise UsageError(
                "not a fungi store",
                where=root,
                expected=f"a directory with a {MANIFEST}",
                hint=f"make one with: fungi extract SOURCE {root} --model NAME",
            )
        manifest = parse_manifest(path.read_bytes(), path)
        say_newer_minor(root, manifest.schema)
        return cls(root, manifest)

    @classmethod
    def open_or_create(cls, root: str | Path) -> Store:
        """Open a store, or make an empty one where nothing, or an empty directory, is.

        Raises:
            UsageError: something else is there.
            StoreError: as in `open`.
        """
        root = Path(root)
        if cls.exists(root):
            return cls.open(root)
        _refuse_odd_path(root)
        if root.exists() and (not root.is_dir() or any(map(_counts, root.iterdir()))):
            raise UsageError(
                "the store's place is taken by something else",
                where=root,
                expected="a store, an empty directory, or nothing",
                hint="choose another STORE, conventionally NAME.fungi",
            )
        manifest = Manifest(SCHEMA_VERSION, uuid.uuid4().hex, (), ())
        make_directory(root)
        with StoreLocks(root).short():  # of two that make it at once, one finds it made
            if not cls.exists(root):
                publish_bytes(root / MANIFEST, manifest.to_json())
        return cls.open(root)

    @cached_property
    def samples(self) -> SampleTable:
        """The sample table."""
        return SampleTable(self.root / SAMPLES, list(self.manifest.parts))

    @property
    def modality(self) -> Modality:
        """What the samples are.

        Raises:
            UsageError: a plug-in added it that is not installed here.
        """
        return find_modality(self.manifest.modality)

    def add_source(
        self, source: Source, modality: str | None = None, *, update: bool = False
    ) -> Comparison:
        """Append the samples of a source that the store lacks; known samples keep their rows.

        Labels get integers in sorted order the first time; later labels follow them.

        Args:
            source: samples in their order.
            modality: name of what they are, of which a store has one; default: the store's.
            update: of known samples that have changed, take over the new size and time, and list
                their rows as to be made anew in every feature set that has them.

        Raises:
            UsageError: two samples have the same id, in the source or in an earlier one.
            MismatchError: the store has samples of another modality.
        """
        old = self.manifest
        items = find_modality(modality or old.modality).items
        if old.parts and modality not in (None, old.modality):
            raise MismatchError(
                "a store has samples of one kind",
                where=self.root,
                expected=self.modality.items,
                found=items,
                hint="use another STORE",
            )
        names = list(dict.fromkeys([*old.labels, *source.label_names()]))
        labels = {name: number for number, name in enumerate(names)}
        part, comparison = self.samples.append(source, source.root, labels, keep_changed=update)
        others: list[str] = []
        is_known = source.root in {p.root for p in old.parts}
        if is_known:
            others = self.samples.other_items(comparison.changed_samples, source.root)
        if others or (comparison.changed and not is_known):
            if part:
                (self.root / SAMPLES / part.file).unlink()
            raise UsageError(
                f"{len(others) or comparison.changed} {items} of this source have the names of "
                f"other {items}",
                where=source.root,
                expected=f"the source that the store was made from: {old.parts[0].root}",
                found=", ".join(map(repr, others[:OTHERS_SHOWN])) or None,
                hint="use another STORE, or a manifest whose `id` column tells them apart",
            )
        parts = list(old.parts) + ([part] if part else [])
        if comparison.known:
            parts = [self.samples.moved(part, source.root) for part in parts]
        self._commit(tuple(names), tuple(parts), modality)
        if comparison.changed_samples:
            self._note_changed(comparison.changed_samples)
            self._refresh_samples(comparison.changed_samples, source.root)
        return comparison

    def _note_changed(self, changed: Mapping[int, Sample]) -> None:
        """List changed rows that were made, before the table forgets that they have changed."""
        message = "the file has changed since its features were made"
        for feature_set in self.feature_sets():
            done = [(array, array.commits()) for array in self.arrays(feature_set).values()]
            self.add_failures(
                Failure(row, sample.uri, CHANGED_FILE, message, feature_set)
                for row, sample in sorted(changed.items())
                if any(row // array.unit_rows in commits for array, commits in done)
            )

    def _refresh_samples(self, changed: Mapping[int, Sample], root: str) -> None:
        first = 0
        for number, part in enumerate(self.manifest.parts):
            if any(first <= row < first + part.rows for row in changed):
                # without a checksum while the file may be the old one or the new one
                self._replace_part(number, replace(part, checksum=None))
                self._replace_part(number, self.samples.refresh(part, changed, root))
            first += part.rows

    def _replace_part(self, number: int, part: Part) -> None:
        parts = list(self.manifest.parts)
        parts[number] = part
        self._commit(parts=tuple(parts))

    def arrays(self, feature_set: str) -> dict[str, UnitArray]:
        """Return the arrays of a feature set by their name in it, such as "gradients/kl"."""
        names = _array_names(self.root / FEATURES / feature_set)
        return {name: UnitArray(self.root, f"{feature_set}/{name}") for name in names}

    def feature_sets(self) -> list[str]:
        """Return the names of the feature sets."""
        names = _array_names(self.root / FEATURES)
        return list(dict.fromkeys(name.split("/", 1)[0] for name in names))

    @contextmanager
    def writing(
        self, *things: str, part: Slice = WHOLE, patience: Context | None = None
    ) -> Iterator[Store]:
        """Hold what is going to be written, and yield the store as the last writer left it.

        Several processes write at once as long as they write different things, or different
        slices of one. The system frees what a writer held when it dies. A store of an older minor
        schema is of this version's from then on.

        Args:
            things: paths of names, such as "features/vit/embeddings"; default: the whole store.
            part: the slice of their units that is going to be written.
            patience: wait for another writer of the same thing; default: refuse.

        Raises:
            FungiError: another process is writing one of them, or this user may not.
        """
        with ExitStack() as held:
            try:
                tokens = held.enter_context(self._locks.hold(things or ("",), part, patience))
            except OSError as error:
                if error.errno not in NOT_WRITABLE:
                    raise
                raise FungiError(
                    "the store cannot be written to",
                    where=self.root,
                    found=error.strerror or error,
                    hint="status, search, eval and export only read; to write, make a copy with "
                    "cp -r, or be given write access",
                ) from error
            self._raise_minor()
            store = Store.open(self.root)
            store._held = self._held | tokens
            yield store

    def copy_samples(self, root: Path) -> Store:
        """Return a store at `root`, an empty directory, with this one's samples and no features."""
        shutil.copy(self.root / MANIFEST, root)
        if (self.root / SAMPLES).is_dir():
            shutil.copytree(self.root / SAMPLES, root / SAMPLES)
        return Store(root, self.manifest)

    def remove(self) -> None:
        """Delete the whole store."""
        shutil.rmtree(self.root)

    def remove_arrays(self, arrays: Iterable[UnitArray]) -> None:
        """Delete arrays, records first: a kill half-way leaves nothing that looks done."""
        for array in arrays:
            if (self.root / COMMITS / array.name).exists():
                shutil.rmtree(self.root / COMMITS / array.name)
            shutil.rmtree(self.root / FEATURES / array.name)

    def remove_unused_setups(self) -> None:
        """Delete the setups that no array refers to, unless another writer may be about to."""
        with self._locks.short():
            if self._locks.others(self._held):
                return
            sets = [self.arrays(feature_set) for feature_set in self.feature_sets()]
            used = {array.fingerprint for arrays in sets for array in arrays.values()}
            self.setups.keep(used)

    def refuse_mismatch(self, feature_set: str, asked: Mapping[str, Config]) -> None:
        """Compare configurations with those of a feature set's arrays, field by field.

        Fields that arrays share must agree over the whole set, so that its features belong
        together; an array that is there already must agree in every field.

        Args:
            feature_set: name of the feature set.
            asked: configuration of each array that is about to be written, by the array's name.

        Raises:
            MismatchError: a field differs; nothing was changed.
        """
        fields: dict[str, tuple[Any, Any]] = {}
        for name, array in self.arrays(feature_set).items():
            stored = self.setups.config(array.fingerprint)
            for other, config in asked.items():
                fields |= differences(stored, config, common=name != other)
        causes = {name: both for name, both in fields.items() if name not in DERIVED}
        if fields:
            raise MismatchError(
                f"feature set {feature_set!r} was made with other settings",
                where=self.root,
                expected="the same settings, or another feature set",
                found=describe(causes or fields),
                hint="repeat the stored settings, or keep both with --feature-set OTHER, "
                "or start it anew with --restart",
            )

    def failures(self) -> list[Failure]:
        """Return the failed inputs by row; the last line about a row counts."""
        return read_failures(self.root / FAILURES)

    def add_failures(self, failures: Iterable[Failure]) -> None:
        """Append failed inputs and flush them to the disk, before their unit is committed."""
        noted = list(failures)
        if noted:
            with self._locks.short():  # nobody replaces the file meanwhile
                append_failures(self.root / FAILURES, noted)

    def compact_failures(
        self, *, forget: str | None = None, mended: Collection[Failure] = ()
    ) -> None:
        """Rewrite the failures sorted and without repeats.

        Args:
            forget: drop those of this feature set.
            mended: drop these.
        """
        if (self.root / FAILURES).exists():
            with self._locks.short():
                compact_failures(self.root / FAILURES, forget=forget, mended=mended)

    def sweep(self) -> int:
        """Remove what interrupted writes left behind; returns how many files or folders.

        Does nothing while another process writes into the store: its files look the same.
        """
        with self._locks.short():
            if self._locks.others(self._held):
                return 0
            found = list(orphans(self.root))
            for path in found:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            return len(found)

    def _raise_minor(self) -> None:
        if self._stored().schema < SCHEMA_VERSION:
            self._commit()

    def _commit(
        self,
        labels: tuple[str, ...] | None = None,
        parts: tuple[Part, ...] | None = None,
        modality: str | None = None,
    ) -> None:
        """Change the manifest as it is on the disk now, which another writer may have changed."""
        with self._locks.short():
            stored = self._stored()
            manifest = replace(
                stored,
                schema=max(stored.schema, SCHEMA_VERSION),
                labels=stored.labels if labels is None else labels,
                parts=stored.parts if parts is None else parts,
                modality=modality or stored.modality,
            )
            if manifest != stored:
                publish_bytes(self.root / MANIFEST, manifest.to_json())
        self.manifest = manifest
        self.__dict__.pop("samples", None)

    def _stored(self) -> Manifest:
        path = self.root / MANIFEST
        return parse_manifest(path.read_bytes(), path)


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
    return not path.name.endswith(PARTIAL) and path.name != LOCKS


def _array_names(directory: Path) -> list[str]:
    """Return the arrays below a zarr group, sorted, by their path in it.

    Reads the metadata files alone: what a kill leaves beside them is passed over in silence.
    """
    names = []
    for folder, below, files in os.walk(directory):
        if METADATA not in files:
            continue
        path = Path(folder, METADATA)
        try:
            is_array = json.loads(path.read_bytes())["node_type"] == "array"
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError("zarr metadata are damaged", where=path, found=error) from error
        if is_array:
            names.append(Path(folder).relative_to(directory).as_posix())
            below.clear()  # its chunks
    return sorted(names)
