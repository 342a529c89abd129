"""Opening a store at a URL: few requests, few one after the other, and nothing is missed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from counting import CountingBucket, uploaded

from feature_world import clustered, make_store, write_block
from fungistore.errors import UsageError
from fungistore.evaluation.knn import KnnOptions, evaluate_knn
from fungistore.remote.bucket import Bucket
from fungistore.store.half_copy import MARKER
from fungistore.store.object_claims import ObjectClaims
from fungistore.store.objects import ObjectBackend
from fungistore.store.status import status
from fungistore.store.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS = 160
IN_SERIES = 9  # store.json; groups, sets, arrays; listings; records; chunks; setups: and one more
REQUESTS = 28


@pytest.fixture
def local(tmp_path: Path) -> Store:
    vectors, labels = clustered(ROWS, 4, 8)
    splits = ["test" if i % 4 == 0 else "train" for i in range(ROWS)]
    return make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels, splits, unit_rows=32)


class Log:
    """When each request began and ended, if each takes a while."""

    def __init__(self, bucket: CountingBucket, seconds: float = 0.1) -> None:
        self.asked: list[tuple[float, float, str, str]] = []
        self.seconds = seconds
        bucket.before = self.note

    def note(self, kind: str, key: str) -> None:
        began = time.monotonic()
        time.sleep(self.seconds)
        self.asked.append((time.monotonic(), began, kind, key))

    @property
    def in_series(self) -> int:
        """The most requests of which each began when the one before had ended."""
        count, until = 0, 0.0
        for ended, began, _, _ in sorted(self.asked):
            if began >= until:
                count, until = count + 1, ended
        return count


def test_an_evaluation_asks_once_and_at_once(local: Store) -> None:
    """No object is read twice, no folder is listed twice, and most requests overlap."""
    backend, bucket = uploaded(local.root)
    log = Log(bucket)
    found = evaluate_knn(backend, KnnOptions(k=3))
    twice = [one for one, count in Counter(one[2:] for one in log.asked).items() if count > 1]
    assert twice == []
    assert len(log.asked) <= REQUESTS
    assert log.in_series <= IN_SERIES
    expected = evaluate_knn(local, KnnOptions(k=3))
    assert found.to_json()["scores"] == expected.to_json()["scores"]


def test_status_asks_once_and_at_once(local: Store) -> None:
    """The same of `status`."""
    backend, bucket = uploaded(local.root)
    log = Log(bucket)
    status(backend)
    assert [one for one, n in Counter(one[2:] for one in log.asked).items() if n > 1] == []
    assert log.in_series <= IN_SERIES + 1


def test_opening_is_one_request(local: Store) -> None:
    """`Store.open` reads store.json, and tells what else is there only where that is not."""
    backend, bucket = uploaded(local.root)
    Store.open(backend)
    assert dict(bucket.asked) == {"get": 1}
    bucket.delete(["store.json"])
    with pytest.raises(UsageError, match="not a fungi store"):
        Store.open(backend)
    assert not Bucket.find(bucket, MARKER)


def test_a_unit_that_is_written_between_the_listings_is_there(local: Store, tmp_path: Path) -> None:
    """The chunks are listed at the same time as the records: what came later is looked at."""
    backend, bucket = uploaded(local.root)
    array = Store.open(backend).arrays("set")["embeddings"]
    late = {"c/4/0": "features.zarr", "00000004.json": "commits"}
    keys = {f"{place}/set/embeddings/{name}" for name, place in late.items()}
    data = {key: Bucket.get(bucket, key) for key in keys}
    bucket.delete(sorted(keys))
    backend = ObjectBackend(bucket, ObjectClaims(bucket))
    with backend.once():
        backend.soon("sizes", f"{array.folder.key}/c")
        known = backend.sizes([array.folder.key_of(array.chunk_key(unit)) for unit in range(4)])
        assert len(known) == 4
        for key in sorted(data, reverse=True):  # the chunk, then its record
            bucket.put(key, data[key])
        found = Store.open(backend).arrays("set")["embeddings"].commits()
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_a_chunk_that_is_gone_is_missed(local: Store) -> None:
    """A record without its chunk is no unit, whatever a compacted object says of the record."""
    backend, bucket = uploaded(local.root)
    bucket.delete(["features.zarr/set/embeddings/c/2/0"])
    assert sorted(Store.open(backend).arrays("set")["embeddings"].commits()) == [0, 1, 3, 4]
    (found,) = status(backend).feature_sets[0].arrays
    assert (found.units_done, found.units_total) == (4, 5)


def test_what_this_process_writes_is_seen_at_once(local: Store) -> None:
    """Answers that are kept go when something is written; the next moment keeps none."""
    backend, _ = uploaded(local.root)
    store = Store.open(backend)
    with backend.once():
        assert list(store.arrays("set")) == ["embeddings"]
        assert not backend.has("a.json")
        backend.publish("a.json", b"{}")
        assert backend.read("a.json") == b"{}"
        write_block(store, "set", "gradients/kl", np.ones((ROWS, 4), np.float32), unit_rows=32)
        assert list(store.arrays("set")) == ["embeddings", "gradients/kl"]


def test_other_threads_ask_for_themselves(local: Store) -> None:
    """What one thread keeps for a moment, another one that watches the store does not get."""
    backend, bucket = uploaded(local.root)
    seen = []
    with backend.once():
        assert not backend.has("late.json")
        bucket.put("late.json", b"{}")
        thread = threading.Thread(target=lambda: seen.append(backend.has("late.json")))
        thread.start()
        thread.join()
        assert not backend.has("late.json")
    assert seen == [True]
    assert backend.has("late.json")
