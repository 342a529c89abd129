"""A store: one directory with samples, features, what they were made with, and failures."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fungistore.choices import Codec
from fungistore.errors import FungiError, UsageError
from fungistore.machine.context import Context
from fungistore.markup import html_table
from fungistore.modalities.modality import Modality, find_modality
from fungistore.quantities import counted
from fungistore.store.backend import Backend, StorePlace, open_backend
from fungistore.store.disk_errors import NOT_WRITABLE
from fungistore.store.failures import (
    FAILURES,
    Failure,
    append_failures,
    compact_failures,
    each_failure,
    read_failures,
)
from fungistore.store.feature import Feature
from fungistore.store.folder import Folder
from fungistore.store.groups import array_metadata, array_names, ready_groups
from fungistore.store.half_copy import refuse_half_copy, refuse_no_store
from fungistore.store.locks import WHOLE, Claim, Slice, StoreLocks
from fungistore.store.manifest import (
    SCHEMA_VERSION,
    Manifest,
    parse_manifest,
    say_newer_minor,
)
from fungistore.store.samples import Part, Rows, SampleTable
from fungistore.store.scratch import abandoned_work
from fungistore.store.setups import SETUPS, Setups
from fungistore.store.units import COMMITS, FEATURES, UnitArray

if TYPE_CHECKING:
    import pandas as pd

    from fungistore.store.dataset import StoreDataset

MANIFEST = "store.json"
SAMPLES = "samples.parquet"


class Store:
    """An open store; use `Store.open` or `Store.open_or_create`.

    Args:
        backend: where it is.
        manifest: the contents of its `store.json`.
        keep_removed: whether rows whose file is gone from the source are used like others.

    Attributes:
        setups: what its features were made with.
    """

    def __init__(self, backend: Backend, manifest: Manifest, *, keep_removed: bool = False) -> None:
        self.backend = backend
        self.manifest = manifest
        self.keep_removed = keep_removed
        self.setups = Setups(self.folder(SETUPS))
        self._locks = StoreLocks(backend.where, backend.claims)
        self._held: frozenset[str] = frozenset()

    @staticmethod
    def exists(where: StorePlace) -> bool:
        """Whether a store, whatever its state, is at a place."""
        return open_backend(where).has(MANIFEST)

    @classmethod
    def open(cls, where: StorePlace | Store, *, keep_removed: bool = False) -> Store:
        """Open an existing store.

        Args:
            where: its directory, or its URL; an open store is returned as it is.
            keep_removed: use rows whose file is gone from the source like others.

        Raises:
            UsageError: there is none.
            StoreError: its manifest is damaged, or of another major schema.
        """
        if isinstance(where, Store):
            is_asked = keep_removed and not where.keep_removed
            return cls(where.backend, where.manifest, keep_removed=True) if is_asked else where
        backend = open_backend(where)
        try:
            manifest = _read_manifest(backend)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            refuse_no_store(backend, MANIFEST)
        say_newer_minor(backend.where, manifest.schema)
        return cls(backend, manifest, keep_removed=keep_removed)

    @classmethod
    def open_or_create(cls, where: StorePlace) -> Store:
        """Open a store, or make an empty one where nothing, or an empty directory, is.

        Raises:
            UsageError: something else is there.
            StoreError: as in `open`.
        """
        backend = open_backend(where)
        if backend.has(MANIFEST):
            return cls.open(backend)
        refuse_half_copy(backend)
        if not backend.make_room():
            raise UsageError(
                "the store's place is taken by something else",
                where=backend.where,
                expected="a store, an empty directory, or nothing",
                hint="choose another STORE, conventionally NAME.fungi",
            )
        manifest = Manifest(SCHEMA_VERSION, uuid.uuid4().hex, (), ())
        with backend.claims.moment():  # of two that make it at once, one finds it made
            if not backend.has(MANIFEST):
                backend.publish(MANIFEST, manifest.to_json())
        return cls.open(backend)

    def __repr__(self) -> str:
        sets = ", ".join(self.feature_sets()) or "none yet"
        return f"<Store {self.where}: {counted(len(self.samples), 'row')}, feature sets: {sets}>"

    def _repr_html_(self) -> str:
        rows = [
            (name, path, " x ".join(map(str, array.array.shape)), array.array.dtype)
            for name in self.feature_sets()
            for path, array in self.arrays(name).items()
        ]
        title = f"Store {self.where}: {len(self.samples)} {self.modality.items}"
        return html_table(title, ("feature set", "array", "shape", "type"), rows)

    @property
    def where(self) -> str:
        """Its place, as messages and commands name it."""
        return self.backend.where

    @property
    def root(self) -> Path:
        """The directory of a store on this machine, for those who look into it.

        Raises:
            FungiError: it is elsewhere.
        """
        directory = self.backend.directory()
        if directory is None:
            raise FungiError("the store is not a directory of this machine", where=self.where)
        return directory

    def folder(self, *names: str) -> Folder:
        """Return a folder of the store, such as that of an index."""
        return Folder(self.backend).at(*names)

    @cached_property
    def samples(self) -> SampleTable:
        """The sample table."""
        return SampleTable(self.folder(SAMPLES), list(self.manifest.parts))

    @property
    def modality(self) -> Modality:
        """What the samples are.

        Raises:
            UsageError: a plug-in added it that is not installed here.
        """
        return find_modality(self.manifest.modality)

    def arrays(self, feature_set: str) -> dict[str, UnitArray]:
        """Return the arrays of a feature set by their name in it, such as "gradients/kl"."""
        found = array_metadata(self.folder(FEATURES, feature_set)).items()
        return {name: UnitArray(self.backend, f"{feature_set}/{name}", one) for name, one in found}

    def feature_sets(self) -> list[str]:
        """Return the names of the feature sets."""
        names = array_names(self.folder(FEATURES))
        return list(dict.fromkeys(name.split("/", 1)[0] for name in names))

    def dataset(
        self,
        *features: str,
        feature_set: str | None = None,
        split: str | None = None,
        rows: Sequence[int] | Rows | None = None,
    ) -> StoreDataset:
        """Return rows as a torch Dataset, with labels and ids, for a DataLoader.

            dataset = store.dataset("patches", "embeddings", split="train")
            for batch in DataLoader(dataset, batch_size=64, shuffle=True, num_workers=2):
                batch["patches"], batch["embeddings"], batch["label"], batch["id"], batch["row"]

        Args:
            features: of "embeddings", "kl", "dino", "simclr", "patches", or any array of the
                feature set, such as "pca/main"; as they are stored, so not normalised.
            feature_set: may be left out where there is one.
            split: only the rows of this split.
            rows: row numbers to choose from, in their order, or a mask of all; default: all.

        Rows without usable values, such as of images that could not be read, are left out, and
        those whose file is gone from the source, unless the store was opened with `keep_removed`;
        the dataset's `left_out` counts them.

        Raises:
            UsageError: there is no such feature, split or row; the error lists what exists.
            StoreError: a chunk or record is damaged.
        """
        from fungistore.store.dataset import open_dataset  # torch, which most commands do without

        return open_dataset(self, features, feature_set=feature_set, split=split, rows=rows)

    def to_pandas(self) -> pd.DataFrame:
        """Return the samples as a data frame, one row each in the order of the store's rows.

        Columns: row, id, path (absolute; of a member of a tar file, its whole uri; None of an item
        that stands in no file), label (its name, a categorical), label_number (-1 without one),
        split, failed (whether some feature set could not read it), then those of the manifest, in
        their types. One that is called like a column above is called "column.NAME".

        Raises:
            UsageError: pandas is not installed; `pip install pandas`.
            StoreError: the sample table is damaged.
        """
        from fungistore.store.frame import sample_frame

        return sample_frame(self)

    def create_array(
        self,
        feature_set: str,
        feature: Feature,
        *,
        rows: int,
        unit_rows: int,
        codec: Codec,
        fingerprint: str,
        shard_units: int = 1,
    ) -> UnitArray:
        """Create the array of a feature; rows that are not written read as NaN.

        Args:
            feature_set: that it joins.
            feature: what a row is.
            rows: of the array.
            unit_rows: of a unit.
            shard_units: chunks of its file.
            codec: of the feature set; see `Feature.codec`.
            fingerprint: of the setup that it is made with, which is frozen.
        """
        return UnitArray.create(
            self.backend,
            f"{feature_set}/{feature.path}",
            shape=(rows, *feature.row_shape),
            dtype=feature.dtype,
            unit_rows=unit_rows,
            shard_units=shard_units,
            codec=feature.codec(codec),
            fingerprint=fingerprint,
        )

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
                    where=self.where,
                    found=error.strerror or error,
                    hint="status, search, export and eval without workers only read; to write, "
                    "make a copy (of a directory: cp -r), or be given write access",
                ) from error
            self.backend.settle()  # whatever is there from here on is relied upon
            self._raise_minor()
            store = Store.open(self.backend, keep_removed=self.keep_removed)
            store._held = self._held | tokens
            yield store

    def writers(self) -> list[Claim]:
        """Return who writes into the store now; needs no write access, and hinders nobody."""
        return self._locks.writers()

    def remove(self) -> None:
        """Delete the whole store."""
        self.backend.remove("")

    def remove_arrays(self, arrays: Iterable[UnitArray]) -> None:
        """Delete arrays, records first: a kill half-way leaves nothing that looks done."""
        for array in arrays:
            ready_groups(self.folder(FEATURES), array.name)
            self.folder(COMMITS).remove(array.name)
            self.folder(FEATURES).remove(array.name)

    def remove_unused_setups(self) -> None:
        """Delete the setups that no array refers to, unless another writer may be about to."""
        with self._locks.short():
            if self._locks.others(self._held):
                return
            sets = [self.arrays(feature_set) for feature_set in self.feature_sets()]
            used = {array.fingerprint for arrays in sets for array in arrays.values()}
            self.setups.keep(used)

    def failures(self) -> list[Failure]:
        """Return the failed inputs by row; the last line about a row counts."""
        return read_failures(self.backend)

    def each_failure(
        self, feature_set: str | None = None, rows: int | None = None
    ) -> Iterator[Failure]:
        """Yield what `failures` does, one at a time; of a feature set, below some row, or all."""
        for failure in each_failure(self.backend):
            is_asked = feature_set in (None, failure.feature_set)
            if is_asked and (rows is None or failure.row < rows):
                yield failure

    def add_failures(self, failures: Iterable[Failure]) -> None:
        """Append failed inputs and flush them to the disk, before their unit is committed."""
        noted = list(failures)
        if noted:
            with self._locks.short():  # nobody replaces the file meanwhile
                append_failures(self.backend, noted)

    def compact_failures(
        self, *, forget: str | None = None, mended: Collection[Failure] = ()
    ) -> None:
        """Rewrite the failures sorted and without repeats.

        Args:
            forget: drop those of this feature set.
            mended: drop these.
        """
        if self.backend.has(FAILURES):
            with self._locks.short():
                compact_failures(self.backend, forget=forget, mended=mended)

    def sweep(self, keep: str = "") -> int:
        """Remove what interrupted writes, and runs but `keep`, left; returns how many files or so.

        Does nothing while another process writes into the store: its files look the same.
        """
        with self._locks.short():
            if self._locks.others(self._held):
                return 0
            found = [*self.backend.leftovers(), *abandoned_work(self.backend, keep)]
            for key in found:
                self.backend.remove(key)
            return len(found)

    def _raise_minor(self) -> None:
        if _read_manifest(self.backend).schema < SCHEMA_VERSION:
            self.commit()

    def commit(
        self,
        labels: tuple[str, ...] | None = None,
        parts: tuple[Part, ...] | None = None,
        modality: str | None = None,
    ) -> None:
        """Change the manifest as it is on the disk now, which another writer may have changed."""
        with self._locks.short():
            stored = _read_manifest(self.backend)
            manifest = replace(
                stored,
                schema=max(stored.schema, SCHEMA_VERSION),
                labels=stored.labels if labels is None else labels,
                parts=stored.parts if parts is None else parts,
                modality=modality or stored.modality,
            )
            if manifest != stored:
                self.backend.publish(MANIFEST, manifest.to_json())
        self.manifest = manifest
        self.__dict__.pop("samples", None)


def _read_manifest(backend: Backend) -> Manifest:
    return parse_manifest(backend.read(MANIFEST), f"{backend.where}/{MANIFEST}")
