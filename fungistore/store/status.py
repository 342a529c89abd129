"""What is in a store, what is missing, how large it is, and where each array came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungistore.fingerprint import Config
from fungistore.markup import html_table
from fungistore.quantities import counted, size
from fungistore.store.masks import read_masks_record
from fungistore.store.opening import begin, opening
from fungistore.store.records import Records
from fungistore.store.removed import read_removed
from fungistore.store.stale import StaleArtefact, stale_artefacts
from fungistore.store.store import Store
from fungistore.store.understood import Understood, count_splits, understood
from fungistore.store.units import UnitArray


@dataclass(frozen=True)
class ArrayStatus:
    """One array: what it is, how much of it is there, and the setup it came from.

    Attributes:
        name: its path below the feature set.
        shape: rows first; rows that are not committed read as NaN.
        dtype: NumPy name of its type.
        units_done: committed units.
        units_total: units that the rows make.
        rows_done: committed rows.
        bytes: size of the committed chunks on disk.
        unusable_rows: rows with a NaN or an infinity, unreadable inputs among them.
        fingerprint: of its setup.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    units_done: int
    units_total: int
    rows_done: int
    bytes: int
    unusable_rows: int
    fingerprint: str


@dataclass(frozen=True)
class FeatureSetStatus:
    """One backbone's features: its arrays, and the backbone that they come from."""

    name: str
    arrays: tuple[ArrayStatus, ...]
    backbone: Config


@dataclass(frozen=True)
class MasksStatus:
    """The segmentation masks of a store.

    Attributes:
        count: how many images have one.
        classes: names by index.
        void: the value of files that is not judged; None where none is.
        skipped: masks that could not be used, by reason; `failed_inputs` yields them.
    """

    count: int
    classes: tuple[str, ...]
    void: int | None
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class StoreStatus:
    """A whole store.

    Attributes:
        store: its directory.
        id: its random name.
        schema: version of its layout.
        samples: rows of the sample table.
        understood: how many samples, classes and splits that are.
        labels: class names in the order of their integers.
        splits: samples of each split; "" counts those without one.
        removed: rows whose file is gone from the source.
        columns: names of the manifest's other columns; `Store.to_pandas` has their cells.
        roots: directories that relative uris start from.
        failed: inputs that could not be read.
        failures: how many of each error, by its class and message.
        masks: of the images; None where the store has none.
        feature_sets: what was extracted.
        stale: PCAs, indexes, heads and evaluations whose rows were made anew since, or are gone.
    """

    store: str
    id: str
    schema: str
    samples: int
    understood: Understood
    labels: tuple[str, ...]
    splits: dict[str, int]
    removed: int
    columns: tuple[str, ...]
    roots: tuple[str, ...]
    failed: int
    failures: dict[str, int]
    masks: MasksStatus | None
    feature_sets: tuple[FeatureSetStatus, ...]
    stale: tuple[StaleArtefact, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{one.name}/{array.name}",
                f"{array.rows_done}/{self.samples}",
                f"{array.units_done}/{array.units_total}",
                size(array.bytes),
                array.unusable_rows,
            )
            for one in self.feature_sets
            for array in one.arrays
        ]
        said = f"{counted(self.samples, 'sample')}, {counted(len(self.labels), 'label')}"
        title = f"{self.store}: {said}, {self.failed} failed"
        return html_table(title, ("array", "rows", "units", "size", "unusable rows"), rows)


def status(store: str | Path | Store) -> StoreStatus:
    """Read a store's status from its records; no feature is read.

    Raises:
        UsageError: there is no store.
        StoreError: it is damaged.
    """
    store = Store.open(store)
    with opening(store):
        return _status(store)


def _status(store: Store) -> StoreStatus:
    sets = {name: store.arrays(name) for name in store.feature_sets()}
    records = Records(array for found in sets.values() for array in found.values())
    begin(store, records.arrays)
    found = understood(store)
    failures = Counter(f"{f.error}: {f.message}" for f in store.each_failure())
    return StoreStatus(
        store=store.where,
        id=store.manifest.id,
        schema=".".join(map(str, store.manifest.schema)),
        samples=len(store.samples),
        labels=store.manifest.labels,
        splits=count_splits(store),
        understood=found,
        removed=len(read_removed(store.folder())),
        columns=tuple(store.samples.columns()),
        roots=tuple(dict.fromkeys(part.root for part in store.manifest.parts)),
        failed=failures.total(),
        failures=dict(failures.most_common()),
        masks=_masks(store),
        feature_sets=tuple(_feature_set(store, name, sets[name], records) for name in sets),
        stale=stale_artefacts(store, records),
    )


def _masks(store: Store) -> MasksStatus | None:
    found = read_masks_record(store.folder())
    if found is None:
        return None
    return MasksStatus(found.count, found.classes, found.void, dict(found.skipped))


def _feature_set(
    store: Store, name: str, found: Mapping[str, UnitArray], records: Records
) -> FeatureSetStatus:
    arrays = []
    backbone: Config = {}
    for array_name, array in found.items():
        commits = records.of(array.name).values()
        arrays.append(
            ArrayStatus(
                name=array_name,
                shape=tuple(array.array.shape),
                dtype=str(array.array.dtype),
                units_done=sum(c.rows == array.rows_of(c.unit) for c in commits),
                units_total=array.units,
                rows_done=sum(commit.rows for commit in commits),
                bytes=sum(commit.bytes for commit in commits),
                unusable_rows=sum(max(c.nan_rows, c.inf_rows) for c in commits),
                fingerprint=array.fingerprint,
            )
        )
        backbone = backbone or store.setups.config(array.fingerprint).get("backbone", {})
    return FeatureSetStatus(name, tuple(arrays), backbone)
