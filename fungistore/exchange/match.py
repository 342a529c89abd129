"""Which row of the imported files belongs to which sample of the store: by id, in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, islice

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.exchange.table import ROWS
from fungistore.fingerprint import digest_ids, hash_ids
from fungistore.quantities import counted
from fungistore.store.samples import SampleTable

IDS_SHOWN = 3


@dataclass(frozen=True)
class FileIds:
    """The ids of the files' rows, as 64-bit hashes: 16 bytes a row, whatever the ids' length.

    Attributes:
        keys: sorted hashes.
        order: the row of each key.
        digest: of all ids in the files' order.
    """

    keys: NDArray[np.uint64]
    order: NDArray[np.int64]
    digest: str

    def rows_of(self, samples: SampleTable) -> NDArray[np.int64]:
        """Return the files' row of each sample of a store, -1 where they have none."""
        parts = [np.zeros(0, np.int64)]
        for batch in samples.batches("id"):
            keys = hash_ids(batch["id"].to_pylist())
            at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            parts.append(np.where(self.keys[at] == keys, self.order[at], -1))
        return np.concatenate(parts)


def read_ids(ids: Callable[[], Iterator[str]], where: object) -> FileIds:
    """Read all ids once; a second time only to name the repeated ones.

    Raises:
        UsageError: an id occurs more than once.
    """
    parts: list[NDArray[np.uint64]] = []

    def hashed() -> Iterator[str]:
        stream = ids()
        while batch := list(islice(stream, ROWS)):
            parts.append(hash_ids(batch))
            yield from batch

    digest = digest_ids(hashed())
    keys = np.concatenate(parts)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    repeated = set(keys[1:][keys[1:] == keys[:-1]].tolist())
    if repeated:
        seen = Counter(i for i in ids() if int(hash_ids([i])[0]) in repeated)
        names = sorted(name for name, times in seen.items() if times > 1)
        raise UsageError(
            f"{counted(len(names), 'id occurs', 'ids occur')} more than once",
            where=where,
            expected="every row has its own id",
            found=", ".join(map(repr, names[:IDS_SHOWN])),
            hint="drop the repeated rows, or name a column of other ids with --ids; rows of "
            "several files without ids need a --table that names them all",
        )
    return FileIds(keys, order, digest)


def refuse_unknown(
    ids: Iterable[str], known: NDArray[np.bool_], matched: int, where: object
) -> None:
    """Raise UsageError if some of the files' rows are not in the store.

    Args:
        ids: of the files' rows.
        known: which of them the store has.
        matched: how many of them those are.
        where: the store.
    """
    if known.all():
        return
    examples = ", ".join(map(repr, islice(compress(ids, ~known), IDS_SHOWN)))
    raise UsageError(
        f"{len(known) - matched} of {counted(len(known), 'row has', 'rows have')} ids "
        f"that the store does not know",
        where=where,
        expected="ids of the store's samples, in any order",
        found=examples,
        hint="--unknown skip leaves them out; another STORE takes them all"
        if matched
        else "name the column of the store's ids with --ids, or choose another STORE",
    )
