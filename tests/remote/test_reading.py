"""A store in a bucket is read with few requests, the same bits, and a second time with none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting import CountingBucket, uploaded
from numpy.typing import NDArray

from feature_world import clustered, make_store
from fungistore.errors import StoreError
from fungistore.evaluation.knn import KnnOptions, evaluate_knn
from fungistore.matrices.blocks import open_features
from fungistore.remote.cache_options import DIRECTORY, SIZE
from fungistore.store.compacted import pack, unpack
from fungistore.store.fetched_rows import FetchedRows
from fungistore.store.object_claims import ObjectClaims
from fungistore.store.object_reads import COMPACTED, ObjectReads
from fungistore.store.objects import ObjectBackend
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS, UNIT = 1600, 16


@pytest.fixture
def local(tmp_path: Path) -> Store:
    vectors, labels = clustered(ROWS, 4, 8)
    splits = ["test" if i % 4 == 0 else "train" for i in range(ROWS)]
    make_store(
        tmp_path / "s.fungi", {"embeddings": vectors, "gradients/kl": vectors[::-1]}, labels, splits
    )
    return Store.open(tmp_path / "s.fungi")


def again(bucket: CountingBucket) -> Store:
    """Open the store anew, as another process with the same cache would."""
    bucket.asked.clear()
    return Store.open(ObjectBackend(bucket, ObjectClaims(bucket)))


def test_matrix_and_scores_are_those_of_the_directory(local: Store) -> None:
    """A pass over a bucket gives the bits of a pass over the disk, and the same evaluation."""
    backend, _ = uploaded(local.root)
    for rows in (None, np.arange(3, ROWS, 7), np.arange(900, 1100)):
        mine, theirs = (
            open_features(local).load(rows),
            open_features(Store.open(backend)).load(rows),
        )
        assert np.array_equal(mine[0], theirs[0])
        assert mine[1].tobytes() == theirs[1].tobytes()
    options = KnnOptions(k=5)
    scores = [evaluate_knn(one, options).to_json()["scores"] for one in (local, backend)]
    assert scores[0] == scores[1]


def test_a_chunk_is_asked_for_once(local: Store) -> None:
    """Each chunk costs one request, and none where another process has left it in the cache."""
    backend, bucket = uploaded(local.root)
    chunks = 2 * ROWS // UNIT
    seen: list[str] = []
    bucket.before = lambda kind, key: seen.append(key) if "/c/" in key else None
    open_features(Store.open(backend)).load()
    open_features(Store.open(backend)).coverage()
    features = open_features(Store.open(backend))
    features.coverage()
    features.load()
    seen.clear()
    open_features(again(bucket)).records.of("set/embeddings")
    features = open_features(again(bucket))
    features.coverage()
    features.load()
    assert [key for key in seen if not key.endswith("/c")] == []
    assert chunks == 200


def test_the_cache_is_checked(local: Store, own_cache: Path) -> None:
    """A pass over a cache with damaged files gives the same bits."""
    backend, bucket = uploaded(local.root)
    features = open_features(Store.open(backend))
    features.coverage()
    expected = features.load()[1]
    for number, path in enumerate(sorted(own_cache.rglob("*.data"))):
        if number % 3 == 0:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    features = open_features(again(bucket))
    features.coverage()
    assert features.load()[1].tobytes() == expected.tobytes()


def test_without_a_cache_the_bits_are_the_same(
    local: Store, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """--cache-size 0 keeps nothing on the disk."""
    monkeypatch.setenv(SIZE, "0")
    backend, _ = uploaded(local.root)
    found, expected = open_features(Store.open(backend)).load(), open_features(local).load()
    assert found[1].tobytes() == expected[1].tobytes()
    assert not own_cache.exists()
    dataset = Store.open(backend).dataset("embeddings", rows=[5, 900, 7])
    assert np.array_equal(
        dataset.__getitems__([0, 1, 2]).fields["embeddings"].numpy(),
        local.dataset("embeddings", rows=[5, 900, 7]).__getitems__([0, 1, 2]).fields["embeddings"],
    )


@pytest.mark.parametrize("part", [1.0, 0.1])
def test_the_second_epoch_asks_for_nothing(local: Store, part: float) -> None:
    """Shuffled rows are those of the directory; what one epoch has fetched serves the next."""
    backend, bucket = uploaded(local.root)
    random = np.random.default_rng(0)
    rows = np.sort(random.permutation(ROWS)[: int(ROWS * part)])
    mine, theirs = local.dataset("kl", rows=rows), Store.open(backend).dataset("kl", rows=rows)
    counts = []
    for _ in range(2):
        bucket.asked.clear()
        for batch in np.array_split(random.permutation(len(rows)), 7):
            got, expected = theirs.__getitems__(batch.tolist()), mine.__getitems__(batch.tolist())
            assert got.fields["kl"].numpy().tobytes() == expected.fields["kl"].numpy().tobytes()
            assert got.fields["id"] == expected.fields["id"]
        counts.append(bucket.asked.total())
    assert counts[0] <= ROWS // UNIT
    assert counts[1] == 0


def test_records_are_read_together(local: Store) -> None:
    """With a compacted object, records cost a listing each for them and the chunks, and one get."""
    backend, bucket = uploaded(local.root)
    expected = local.arrays("set")["embeddings"].commits()
    array = Store.open(backend).arrays("set")["embeddings"]
    bucket.asked.clear()
    assert array.commits() == expected
    assert bucket.asked["get"] == len(expected) == 100
    ObjectReads(backend._reads.cached).compact("commits/set/embeddings")
    bucket.asked.clear()
    assert array.commits() == expected
    assert bucket.asked == {"list": 2}  # the cache of this machine has the records
    assert bucket.get(f"commits/set/embeddings/{COMPACTED}").startswith(b"fungi compacted")


@pytest.mark.parametrize("state", ["lost", "damaged", "stale", "hostile"])
def test_a_compacted_object_is_only_a_cache(
    local: Store, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever it is, the records are those that are there, also after they have changed."""
    backend, bucket = uploaded(local.root)
    array = Store.open(backend).arrays("set")["embeddings"]
    key = f"commits/set/embeddings/{COMPACTED}"
    reads = ObjectReads(backend._reads.cached)
    reads.compact("commits/set/embeddings")
    if state == "lost":
        bucket.delete([key])
    elif state == "damaged":
        data = bytearray(bucket.get(key))
        data[len(data) // 2] ^= 1
        bucket.put(key, bytes(data))
    elif state == "hostile":
        bucket.put(key, pack({"00000001.json": ("no such tag", b"{}"), "../x": ("t", b"x")}))
    vectors = np.full((UNIT, 8), 7, np.float32)
    local.arrays("set")["embeddings"].publish(3, vectors, "other ids", 0)
    for folder, name in (("commits", "00000003.json"), ("features.zarr", "c/3/0")):
        path = f"{folder}/set/embeddings/{name}"
        bucket.put(path, (local.root / path).read_bytes())
    bucket.delete(["commits/set/embeddings/00000004.json"])
    expected = local.arrays("set")["embeddings"].commits()
    del expected[4]
    assert array.commits() == expected
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "another cache"))
    fresh = Store.open(ObjectBackend(bucket, ObjectClaims(bucket))).arrays("set")["embeddings"]
    assert fresh.commits() == expected


def test_damaged_compacted_objects_say_nothing() -> None:
    """A cut or changed object has no entries; a sound one has them all."""
    entries = {f"{n:08d}.json": (f"tag {n}", b'{"a": %d}' % n) for n in range(50)}
    packed = pack(entries)
    assert unpack(packed) == entries
    for place in range(0, len(packed), 37):
        assert unpack(packed[:place]) == {}
        assert unpack(packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]) == {}


def test_writers_compact_what_they_write(tmp_path: Path) -> None:
    """Who puts hundreds of records leaves a compacted object, without reading one of them."""
    bucket = CountingBucket()
    vectors, labels = clustered(300, 3, 4)
    store = Store.open_or_create(ObjectBackend(bucket, ObjectClaims(bucket)))
    local = make_store(tmp_path / "w.fungi", {"embeddings": vectors}, labels)
    array = local.arrays("set")["embeddings"]
    backend, bucket = uploaded(local.root)
    reads = backend._reads
    for number in range(300):
        key = f"commits/set/embeddings/{number:08d}.json"
        data = b'{"unit": %d}' % number
        reads.published(key, bucket.put(key, data), [data])
    entries = unpack(bucket.get(f"commits/set/embeddings/{COMPACTED}"))
    assert len(entries) == 256
    reads.finish()
    assert len(unpack(bucket.get(f"commits/set/embeddings/{COMPACTED}"))) == 300
    assert bucket.asked["get"] <= 2 + array.units
    assert store.feature_sets() == []


def test_status_is_that_of_the_directory(local: Store) -> None:
    """What status says of a bucket is what it says of the directory, but for the place."""
    backend, _ = uploaded(local.root)
    mine, theirs = status(local).to_json(), status(Store.open(backend)).to_json()
    assert mine | {"store": 0} == theirs | {"store": 0}


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_shard_is_no_features(tmp_path: Path, own_cache: Path, damage: str) -> None:
    """Whoever reads says that a chunk is damaged, whatever is wrong with the object."""
    vectors, labels = clustered(64, 2, 8)
    blocks = {"embeddings": vectors}
    local = make_store(tmp_path / "s.fungi", blocks, labels, unit_rows=64, shard_units=4)
    backend, bucket = uploaded(local.root)
    array = Store.open(backend).arrays("set")["embeddings"]
    assert np.array_equal(array.read(3, 40), vectors[3:40])
    assert np.array_equal(_rows(array, 50, 3), vectors[[50, 3]])
    key = "features.zarr/set/embeddings/c/0/0"
    good = bucket.get(key)
    bad = {
        "flipped": good[:40] + bytes([good[40] ^ 1]) + good[41:],
        "cut": good[:200],
        "empty": b"",
    }
    bucket.put(key, bad[damage])
    for _ in range(2):  # as it was known before, and as it is
        with pytest.raises(StoreError, match="chunk is damaged"):
            open_features(again(bucket)).load()
    if damage != "flipped":  # of single rows nothing compares the CRC-32C
        with pytest.raises(StoreError, match="damaged"):
            _rows(again(bucket).arrays("set")["embeddings"], 50, 3)


def test_rows_of_a_shard_take_a_request_each_stretch(tmp_path: Path) -> None:
    """Neighbouring chunks are one request, and no index is read."""
    vectors, labels = clustered(64, 2, 8)
    blocks = {"embeddings": vectors}
    local = make_store(tmp_path / "s.fungi", blocks, labels, unit_rows=64, shard_units=8)
    backend, bucket = uploaded(local.root)
    array = Store.open(backend).arrays("set")["embeddings"]
    array.commits()
    bucket.asked.clear()
    assert np.array_equal(array.read(5, 60), vectors[5:60])
    assert bucket.asked == {"get": 1}


def _rows(array: UnitArray, *rows: int) -> NDArray[np.float32]:
    out = np.empty((len(rows), 8), np.float32)
    for job in FetchedRows(array).jobs(np.array(rows), out):
        job()
    return out
