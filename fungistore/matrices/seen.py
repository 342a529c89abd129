"""No row is tested on that the encoder was trained or chosen on: `fungi adapt` has seen its label.

The setup of an adapted encoder's features keeps which rows these are, and what was made of such
features, as a PCA, leads back to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.fingerprint import hash_ids
from fungistore.quantities import counted
from fungistore.store.references import fingerprint_of
from fungistore.store.samples import Rows
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

IDS_SHOWN = 3


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
    if not known:
        return
    is_tested = np.zeros(len(store.samples), bool)
    is_tested[rows] = True
    ids = list(compress(store.samples.ids(), is_tested))
    is_seen = np.isin(hash_ids(ids), np.concatenate(known))
    if is_seen.any():
        some = ", ".join(list(compress(ids, is_seen))[:IDS_SHOWN])
        count = int(is_seen.sum())
        raise UsageError(
            f"the model was adapted on {count} of the {counted(len(ids), 'test row')}",
            where=arrays[0].name,
            expected="rows that fungi adapt has neither trained nor validated on",
            found=f"{some}{', ...' if count > IDS_SHOWN else ''}",
            hint="the --holdout and --validation that fungi adapt had, and as --seed its "
            "--split-seed, or --seed where it had none; or --split test",
        )


def _seen(store: Store, key: str) -> list[NDArray[np.uint64]]:
    """Return the hashes of the rows that are behind an array, through what it was made of."""
    config = store.setups.config(key)
    made = config.get("pca", config.get("bank"))
    if not isinstance(made, dict):
        seen = store.setups.seen(key)
        return [] if seen is None else [seen]
    inputs = {fingerprint_of(str(reference)) for reference in made.get("inputs", {}).values()}
    return [one for other in sorted(inputs) for one in _seen(store, other)]
