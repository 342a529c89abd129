"""Known items at another place or time, told by digests of the bytes that rows were made from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.errors import ItemError
from fungistore.location import locate, uri_to_path
from fungistore.machine.context import Context
from fungistore.modalities.reading import digest_item
from fungistore.remote.urls import is_url
from fungistore.store.differences import FREE, OTHER, SAME, UNSURE
from fungistore.store.feature import is_derived
from fungistore.store.item_digests import FAILED, UNKNOWN, Digests, ItemDigests
from fungistore.store.plain import differ
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

READERS = 8  # threads: disks and networks answer several questions at once
REMOTE_READERS = 64
READ_AT_ONCE = 256  # between two looks at whether to stop


class Recognition:
    """Tells of rows whose place, size or time is another whether their items are the same.

    Rows that nothing was made of yet are free to take the new place. Of others whose size agrees,
    the new bytes are read once, and their digest is compared with that of each feature set.

    Args:
        store: the store.
        root: of the source.
        context: its reporter shows the reading, its stop is asked meanwhile.
    """

    def __init__(self, store: Store, root: str, context: Context) -> None:
        self._store = store
        self._root = root
        self._context = context

    @cached_property
    def _sets(self) -> list[tuple[ItemDigests, list[UnitArray]]]:
        """The digests of each feature set, and its arrays of items."""
        store = self._store
        every = [(name, store.arrays(name)) for name in store.feature_sets()]
        return [
            (ItemDigests(store.backend, name), [a for p, a in arrays.items() if not is_derived(p)])
            for name, arrays in every
        ]

    def __call__(self, asked: pa.Table) -> NDArray[np.uint8]:
        """Return UNSURE, SAME, OTHER or FREE of each row; see `SameContent`."""
        rows = asked["row"].to_numpy()
        is_made, digests, is_one = self._stored(rows)
        verdicts = np.full(len(rows), UNSURE, np.uint8)
        is_alike = ~differ(asked["bytes"].combine_chunks(), asked["old_bytes"].combine_chunks())
        verdicts[is_made & (~is_alike | ~is_one)] = OTHER
        verdicts[is_made & (digests == UNKNOWN)] = UNSURE
        roots = map(uri_to_path, asked["root"].to_pylist())
        places = list(zip(roots, asked["uri"].to_pylist(), strict=True))
        for place in np.flatnonzero(~is_made).tolist():
            # an item of another source that is still there has its name, but not its place
            if places[place][0] == self._root or not _is_there(*places[place]):
                verdicts[place] = FREE
            elif is_alike[place]:
                digests[place] = _digest(places[place])
        at = np.flatnonzero((verdicts == UNSURE) & (digests > FAILED)).tolist()
        uris = asked["new_uri"].to_pylist()
        found = self._digests([uris[place] for place in at])
        verdicts[at] = np.where(found == digests[at], SAME, OTHER)
        return verdicts

    def _digests(self, uris: Sequence[str]) -> Digests:
        """Return the digests of items of the source."""
        found: list[int] = []
        if not uris:
            return np.zeros(0, np.uint64)
        reporter = self._context.reporter
        reporter.begin(f"{self._store.modality.items} to compare with the stored ones", len(uris))
        try:
            readers = REMOTE_READERS if is_url(self._root) else READERS
            with ThreadPoolExecutor(readers, thread_name_prefix="fungi-compare") as pool:
                rest = iter(uris)
                while some := [(self._root, uri) for uri in islice(rest, READ_AT_ONCE)]:
                    self._context.stop_if_asked()
                    found += pool.map(_digest, some)
                    reporter.advance(len(some))
        finally:
            reporter.end()
        return np.array(found, np.uint64)

    def _stored(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], Digests, NDArray[np.bool_]]:
        """Return which rows something was made of, from what, and whether all sets agree on it."""
        is_made, is_one = np.zeros(len(rows), bool), np.ones(len(rows), bool)
        digests = np.full(len(rows), FAILED, np.uint64)
        for of_set, arrays in self._sets:
            own = np.full(len(rows), FAILED, np.uint64)
            for size in {array.unit_rows for array in arrays}:
                for unit in np.unique(rows // size).tolist():
                    at = np.flatnonzero(rows // size == unit)
                    made = max(made_rows(a, unit) for a in arrays if a.unit_rows == size)
                    places = rows[at] - unit * size
                    own[at] = np.where(places < made, of_set.read(unit, size)[places], FAILED)
            is_first = digests == FAILED
            is_one &= is_first | (own == FAILED) | (own == digests)
            digests = np.where(is_first | (own == UNKNOWN), own, digests)
            is_made |= own != FAILED
        return is_made, digests, is_one


def made_rows(array: UnitArray, unit: int) -> int:
    """Return how many rows of a unit may have features: all of a chunk that has lost its record."""
    if commit := array.commit(unit):
        return commit.rows
    return array.unit_rows if array.folder.has(array.chunk_key(unit)) else 0


def _is_there(root: str, uri: str) -> bool:
    try:
        return locate(root, uri).exists()
    except OSError:  # nobody can tell, so it may be
        return True


def _digest(place: tuple[str, str]) -> int:
    """Return the digest of an item, FAILED of one that cannot be read."""
    try:
        return digest_item(*place)
    except (ItemError, OSError, ValueError):
        return FAILED
