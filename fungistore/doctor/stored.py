"""A store: whether it opens, who writes, how much of it is done, whether its files are there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from fungistore.doctor.check import Check, failed, passed, warned
from fungistore.errors import StoreError
from fungistore.modalities.modality import MODALITIES, find_modality
from fungistore.quantities import counted
from fungistore.remote.urls import is_url
from fungistore.store.locks import Claim
from fungistore.store.manifest import newer_minor
from fungistore.store.status import FeatureSetStatus, StoreStatus, status
from fungistore.store.store import Store


def judge_store(root: Path) -> Iterator[Check]:
    """Check a store; reads its records and no feature.

    Raises:
        UsageError: there is none.
    """
    try:
        store = Store.open(root)
        yield judge_schema(store.manifest.schema)
        yield judge_writers(store.writers())
        found = status(root)
    except StoreError as error:
        fix = error.hint or "fungi verify STORE --repair drops what is damaged"
        where = f" ({error.where})" if error.where else ""
        details = f"; found {error.found}" if error.found else ""
        yield failed("store", f"{error.what}{where}{details}", fix)
        return
    yield judge_sources(found, _items(store))
    for feature_set in found.feature_sets:
        yield judge_feature_set(found, feature_set)
    if not found.feature_sets:
        yield warned(
            "features", "none yet", f"fungi extract SOURCE {quote(str(root))} --model NAME"
        )


def judge_schema(schema: tuple[int, int]) -> Check:
    """Judge the version of a store that could be opened."""
    newer = newer_minor(schema)
    if newer:
        return warned("schema", newer, "pip install --upgrade fungistore")
    return passed("schema", ".".join(map(str, schema)))


def judge_writers(writers: Sequence[Claim]) -> Check:
    """Tell who is writing; nobody is hindered by being asked."""
    if not writers:
        return passed("writers", "nobody is writing")
    found = "; ".join(f"{claim.thing or 'the whole store'}: {claim}" for claim in writers)
    return warned("writers", found, "wait for them to write the same; reading works meanwhile")


def _items(store: Store) -> str:
    """Return what the samples are called, also where the plug-in that reads them is missing."""
    name = store.manifest.modality
    return find_modality(name).items if name in MODALITIES else name


def judge_sources(found: StoreStatus, items: str) -> Check:
    """Judge whether the files that a store was made from are still where they were."""
    gone = [root for root in found.roots if not (is_url(root) or os.path.exists(root))]
    if gone:
        return warned(
            items,
            f"{', '.join(gone)}: not there",
            "features can be used; to add some, mount it, or run fungi extract with the new place",
        )
    return passed(
        items, f"{counted(found.samples, 'sample')} from {', '.join(found.roots) or 'nowhere'}"
    )


def judge_feature_set(found: StoreStatus, feature_set: FeatureSetStatus) -> Check:
    """Judge how much of a feature set is done."""
    name = f"features {feature_set.name}"
    rows = [array.rows_done for array in feature_set.arrays]
    total = found.samples * len(rows)
    share = sum(rows) / total if total else 1.0
    bad = max((array.unusable_rows for array in feature_set.arrays), default=0)
    said = f"{share:.1%} of {counted(len(rows), 'array')} of {counted(found.samples, 'row')}"
    said += f", {counted(bad, 'unusable row')}" if bad else ""
    if sum(rows) < total:
        return warned(name, said, "the same fungi extract (or pca, import) continues where it is")
    return passed(name, said)
