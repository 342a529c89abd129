"""No row is tested on that the encoder was trained or chosen on: `fungi adapt` has seen its label.

The setup of an adapted encoder's features keeps which rows these are, and what was made of such
features, as a PCA, leads back to it. A row is known by its id; one whose id the store has not, or
has no more, is known by its image: a folder that was renamed, or is listed from further above,
gives other ids. An image that comes twice in one store is a row of its own each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.fingerprint import hash_ids
from fungistore.quantities import counted
from fungistore.store.feature import is_derived
from fungistore.store.item_digests import FAILED, Digests, ItemDigests
from fungistore.store.references import fingerprint_of
from fungistore.store.removed import read_removed
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

IDS_SHOWN = 3
Seen = tuple[NDArray[np.uint64], Digests]  # hashes of rows' ids [n], digests of their images [n]


def refuse_seen(store: Store, arrays: Iterable[UnitArray], rows: Rows) -> None:
    """Refuse to test on rows that the encoder of some arrays was trained or chosen on.

    Args:
        store: the store.
        arrays: whose features are tested.
        rows: to be tested on.

    Raises:
        UsageError: it has seen some of them.
        StoreError: which ones it has seen is not known any more.
    """
    arrays = list(arrays)
    known = [one for array in arrays for one in _seen(store, array.fingerprint)]
    if known:
        refuse_trained_on(store, arrays[0], known, rows)


def refuse_trained_on(store: Store, array: UnitArray, seen: Sequence[Seen], rows: Rows) -> None:
    """Refuse to test on rows that were trained or chosen on.

    Args:
        store: the store.
        array: whose features are tested.
        seen: what was trained on; one or more.
        rows: to be tested on.

    Raises:
        UsageError: some of them were.
    """
    rows = np.unique(rows)
    ids, images = map(np.concatenate, zip(*seen, strict=True))
    hashes = hash_ids(store.samples.ids())
    there = np.delete(hashes, read_removed(store.folder()))
    elsewhere = images[(images > FAILED) & ~np.isin(ids, there)]
    is_seen = np.isin(hashes[rows], ids)
    if len(elsewhere):
        is_seen |= np.isin(_images(store, array, rows), elsewhere)
    if is_seen.any():
        is_shown = np.zeros(len(store.samples), bool)
        is_shown[rows[is_seen][:IDS_SHOWN]] = True
        count = int(is_seen.sum())
        some = ", ".join(compress(store.samples.ids(), is_shown))
        raise UsageError(
            f"the model was adapted on {count} of the {counted(len(rows), 'test row')}",
            where=array.name,
            expected="rows that fungi adapt has neither trained nor validated on",
            found=f"{some}{', ...' if count > IDS_SHOWN else ''}",
            hint="the --holdout, --validation and --group of fungi adapt, and as --split-seed "
            "its --split-seed, or --seed where it had none; or --split test; where samples were "
            "added since, adapt anew: their holdout is another one",
        )


def _images(store: Store, array: UnitArray, rows: Rows) -> Digests:
    """Return the digests of the images that some rows' features were made of."""
    siblings = store.arrays(array.feature_set).items()
    size = next((one.unit_rows for path, one in siblings if not is_derived(path)), 1)
    noted = ItemDigests(store.backend, array.feature_set)
    found = np.empty(len(rows), np.uint64)
    for unit in np.unique(rows // size).tolist():
        is_here = rows // size == unit
        found[is_here] = noted.read(unit, size)[rows[is_here] - unit * size]
    return found


def _seen(store: Store, key: str) -> list[Seen]:
    """Return the rows that are behind an array, through what it was made of."""
    config = store.setups.config(key)
    made = config.get("pca", config.get("bank"))
    if not isinstance(made, dict):
        seen = store.setups.seen(key)
        return [] if seen is None else [seen]
    inputs = {fingerprint_of(str(reference)) for reference in made.get("inputs", {}).values()}
    return [one for other in sorted(inputs) for one in _seen(store, other)]
