"""Writes the units of an array at a place, going on where it ended; stops itself where it is told.

python url_writer.py PLACE SEED SLICE LEASE [KEY-TO-STOP-BEFORE]
"""

from __future__ import annotations

import os
import signal
import sys

import numpy as np

from fungistore.errors import FungiError
from fungistore.fingerprint import digest_ids, fingerprint
from fungistore.remote.bucket import Bucket
from fungistore.sources.sample import Sample
from fungistore.store.backend import Backend, open_backend
from fungistore.store.failures import Failure
from fungistore.store.listing import add_source
from fungistore.store.locks import Slice
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.object_claims import ObjectClaims
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

UNIT_ROWS, WIDTH = 4, 8
ARRAY = "set/embeddings"
CONFIG = {
    "schema": SCHEMA_VERSION[0],
    "layout": {"unit_rows": UNIT_ROWS, "codec": "none"},
    "vectors": {"dtype": "float32"},
    "made": {"name": "embeddings"},
}


class Listed:
    """A source of samples without files."""

    root = "/nowhere"

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def columns(self):
        return {}

    def label_names(self):
        return []

    def __iter__(self):
        return (Sample(f"{row}.jpg", f"{row}.jpg", None, None) for row in range(self._rows))


def prepare(place: str, units: int) -> None:
    """Make the store with its samples and an array without rows."""
    store = Store.open_or_create(place)
    add_source(store, Listed(units * UNIT_ROWS))
    store.setups.freeze(CONFIG, {}, {})
    UnitArray.create(
        store.backend,
        ARRAY,
        shape=(units * UNIT_ROWS, WIDTH),
        dtype="float32",
        unit_rows=UNIT_ROWS,
        codec="none",
        fingerprint=fingerprint(CONFIG),
    )


def write(backend: Backend, seed: int, part: Slice) -> None:
    """Write what is missing of a slice."""
    with Store.open(backend).writing("features/set", part=part) as store:
        array = store.arrays("set")["embeddings"]
        done = array.commits()
        for unit in range(array.units):
            if unit in done or unit not in part:
                continue
            block = np.random.default_rng([seed, unit]).normal(size=(UNIT_ROWS, WIDTH))
            rows = range(unit * UNIT_ROWS, (unit + 1) * UNIT_ROWS)
            if unit % 3 == 0:
                store.add_failures([Failure(rows[0], f"{rows[0]}.jpg", "Odd", "", "set")])
            ids = digest_ids(f"{row}.jpg" for row in rows)
            array.publish(unit, block.astype(np.float32), ids, 0)
        if part.count == 1:
            store.compact_failures()


def stop_before(key: str) -> None:
    """Stop this process, as by SIGSTOP, between the look at a key and its put; once."""
    put, stopped = Bucket.put, []

    def stopping(self, one, *pieces, expected=None):
        if one == key and not stopped:
            stopped.append(key)
            os.kill(os.getpid(), signal.SIGSTOP)
        return put(self, one, *pieces, expected=expected)

    Bucket.put = stopping  # type: ignore[method-assign]


def main(place: str, seed: str, part: str, lease: str, *stop: str) -> int:
    """Write, and say why not."""
    for key in stop:
        stop_before(key)
    backend = open_backend(place)
    if isinstance(backend.claims, ObjectClaims):
        backend.claims.seconds = backend.claims.moment_seconds = float(lease)
    index, count = map(int, part.split("/"))
    try:
        write(backend, int(seed), Slice(index, count))
    except FungiError as error:
        print(type(error).__name__, error, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
