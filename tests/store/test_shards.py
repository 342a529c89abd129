"""Units whose file is a shard of several chunks: what is one chunk otherwise, in fewer files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray

from feature_world import clustered, make_store
from fungistore.choices import Codec
from fungistore.errors import FungiError, UsageError
from fungistore.exchange.import_ import import_features
from fungistore.exchange.options import ImportOptions
from fungistore.extraction.measure import estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.loff.loader import DecodedChunks
from fungistore.machine.context import QUIET
from fungistore.matrices import blocks
from fungistore.matrices.blocks import open_features
from fungistore.pca.stage import PcaOptions, fit_pca
from fungistore.store.chunks import chunks_of, encode, is_whole
from fungistore.store.gather import MappedChunks
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store
from tiny_world import TINY, write_images

CODECS: tuple[Codec, ...] = get_args(Codec)
ROWS, UNIT_ROWS, CHUNKS = 40, 16, 4  # units of 16, 16 and 8 rows, in chunks of 4
ROW_SHAPES: list[tuple[int, ...]] = [(3,), (2, 96)]


def values_of(row_shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    return np.random.default_rng(1).standard_normal((ROWS, *row_shape)).astype(dtype)


def make(root: Path, values: NDArray[Any], codec: Codec = "none") -> UnitArray:
    """A sharded array with all units of some values published."""
    array = UnitArray.create(
        LocalBackend(root),
        "vit/embeddings",
        shape=values.shape,
        dtype=str(values.dtype),
        unit_rows=UNIT_ROWS,
        shard_units=CHUNKS,
        codec=codec,
        fingerprint="f1",
    )
    for unit in range(array.units):
        array.publish(unit, values[unit * UNIT_ROWS : (unit + 1) * UNIT_ROWS], "ids", 0)
    return array


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("row_shape", ROW_SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_everybody_reads_what_was_written(tmp_path, codec, row_shape, dtype) -> None:
    """We, zarr and tensorstore read the same values, whatever stretch is asked for."""
    if codec == "bitround" and dtype == "float32":
        pytest.skip("bitround is of float16")
    values = values_of(row_shape, dtype)
    array = make(tmp_path, values, codec)
    assert (array.unit_rows, array.chunk_rows, array.shard_units, array.units) == (16, 4, 4, 3)
    expected = values if codec != "bitround" else np.asarray(array.array[:])
    assert np.allclose(expected, values, rtol=0.02)
    whole = zarr.open_array(tmp_path / "features.zarr" / "vit" / "embeddings", mode="r")
    assert (whole.shards[0], whole.chunks[0]) == (UNIT_ROWS, UNIT_ROWS // CHUNKS)
    assert np.array_equal(np.asarray(whole[:]), expected)
    for start in (0, 3, 16, 37):
        for stop in (start + 1, 17, 33, ROWS):
            assert np.array_equal(array.read(start, max(start, stop)), expected[start:stop])
    tensorstore = pytest.importorskip("tensorstore")
    path = str(tmp_path / "features.zarr" / "vit" / "embeddings")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    read = np.asarray(tensorstore.open(spec, read=True).result().read().result())
    assert np.array_equal(read, expected)


def test_a_unit_is_one_file(tmp_path: Path) -> None:
    """One file and one record a unit; of the last one, chunks beyond its rows are NaN."""
    array = make(tmp_path, values_of((3,)))
    files = [path for path in array.folder.directory().rglob("*") if path.is_file()]
    assert len(files) == array.units + 1  # and zarr.json
    assert array.plain is not None
    assert {path.stat().st_size for path in files if path.name != "zarr.json"} == {
        array.plain.bytes
    }
    mapped = array.plain.map(array.chunk_path(2), 3)
    assert np.isnan(mapped.values).all()


def test_the_index_says_where_chunks_are(tmp_path: Path) -> None:
    """Offsets of our own arithmetic are those that the file's index has."""
    values = values_of((2, 96), "float16")
    array = make(tmp_path, values)
    assert array.plain is not None
    file = array.chunk_path(1).read_bytes()
    index = np.frombuffer(file[-(16 * CHUNKS + 4) : -4], "<u8").reshape(CHUNKS, 2)
    rows = [array.plain.offset(row) for row in range(0, UNIT_ROWS, UNIT_ROWS // CHUNKS)]
    assert index[:, 0].tolist() == rows
    assert {*index[:, 1].tolist()} == {array.plain.chunk_bytes}
    for row in (0, 5, 15):
        start = array.plain.offset(row)
        one = np.frombuffer(file[start : start + array.plain.row_bytes], "float16")
        assert np.array_equal(one.reshape(2, 96), values[UNIT_ROWS + row])


@pytest.mark.parametrize("row_shape", ROW_SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_mapped_in_any_order(tmp_path, row_shape, dtype) -> None:
    values = values_of(row_shape, dtype)
    array = make(tmp_path, values)
    reader = MappedChunks(array, parts=3, maps=2)
    for seed in range(5):
        rows = np.random.default_rng(seed).permutation(ROWS)[:23]
        out = np.empty((len(rows), *row_shape), dtype)
        for job in reader.jobs(rows, out):
            job()
        assert np.array_equal(out, values[rows])


def test_encoded_chunks_are_decoded_one_by_one(tmp_path: Path) -> None:
    """Of a shard that compresses, only the chunks that are asked for are decoded."""
    values = values_of((2, 96))
    array = make(tmp_path, values, "zstd")
    rows = np.array([1, 2, 17, 38])
    reader = DecodedChunks(array, rows, window=2)
    assert reader._sequence == [0, 4, 9]
    out = np.empty((len(rows), 2, 96), "float32")
    for job in reader.jobs(rows, out):
        job()
    assert np.array_equal(out, values[rows])


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_every_flipped_byte_is_found(tmp_path: Path, codec: Codec) -> None:
    """In chunks, in their checksums, and in the index."""
    values = values_of((3,))[:UNIT_ROWS]
    file = b"".join(encode(values, UNIT_ROWS, codec, CHUNKS))
    assert is_whole(file, CHUNKS)
    assert len(b"".join(chunks_of(file, CHUNKS))) == len(file) - 4 * CHUNKS - 16 * CHUNKS - 4
    array = make(tmp_path, values_of((3,)), codec)
    for place in range(0, len(file), 1 if codec == "none" else 7):
        damaged = bytearray(file)
        damaged[place] ^= 1
        assert not is_whole(bytes(damaged), CHUNKS), place
        if array.plain is not None:
            array.chunk_path(0).write_bytes(damaged)
            with pytest.raises(ValueError, match="differs"):
                array.plain.examine(array.chunk_path(0), UNIT_ROWS)
    assert not is_whole(file[:-1], CHUNKS)
    assert not is_whole(file, CHUNKS // 2)


def options(weights: Path, **more: Any) -> ExtractOptions:
    return ExtractOptions(
        model=TINY,
        weights=str(weights),
        features=("embeddings", "kl", "patches"),
        batch_size=4,
        projection_dim=32,
        device="cpu",
        unit_rows=4,
        **more,
    )


def extracted(images: Path, where: Path, weights: Path, **more: Any) -> Store:
    extract(str(images), where, options(weights, **more), context=QUIET)
    return Store.open(where)


def all_values(store: Store) -> dict[str, NDArray[Any]]:
    (name,) = store.feature_sets()
    return {path: np.asarray(a.array[:]) for path, a in store.arrays(name).items()}


def test_features_are_those_of_plain_units(tmp_path: Path, tiny_weights: Path) -> None:
    """The same bits in fewer files; a longer source completes the last shard; PCA inherits it."""
    images = tmp_path / "images"
    write_images(images, 13)
    plain = extracted(images, tmp_path / "plain.fungi", tiny_weights)
    shards = extracted(images, tmp_path / "shards.fungi", tiny_weights, shard_units=2)
    for store, unit_rows, count in ((plain, 4, 4), (shards, 8, 2)):
        for array in store.arrays(store.feature_sets()[0]).values():
            assert (array.unit_rows, len(array.commits()), array.chunk_rows) == (
                unit_rows,
                count,
                4,
            )
    for path, values in all_values(plain).items():
        assert np.array_equal(values, all_values(shards)[path]), path
    write_images(images, 21)
    asked = replace(options(tiny_weights), unit_rows=None)
    before = {a.name: dict(a.commits()) for a in shards.arrays(TINY).values()}
    extract(str(images), shards.where, asked, context=QUIET)  # without naming the layout again
    grown, reference = (
        Store.open(shards.where),
        extracted(images, tmp_path / "again.fungi", tiny_weights),
    )
    for path, values in all_values(reference).items():
        assert np.array_equal(values, all_values(grown)[path]), path
    for array in grown.arrays(TINY).values():
        assert array.commits()[0] == before[array.name][0]
    fit_pca(grown.where, PcaOptions(dim=4), context=QUIET)
    (pca,) = (a for path, a in Store.open(grown.where).arrays(TINY).items() if "pca/" in path)
    assert (pca.unit_rows, pca.shard_units) == (8, 2)
    assert verify_store(grown.where).is_sound


def test_later_stages_read_a_shard_some_chunks_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with shards; blocks, and all bits of a PCA, are those of small reads."""
    vectors, labels = clustered(3000, 3, 24, seed=2)
    shards = make_store(
        tmp_path / "s.fungi", {"embeddings": vectors}, labels, unit_rows=2048, shard_units=16
    )
    plain = make_store(tmp_path / "p.fungi", {"embeddings": vectors}, labels, unit_rows=128)
    whole = tmp_path / "w.fungi"
    make_store(whole, {"embeddings": vectors}, labels, unit_rows=2048)
    monkeypatch.setattr(blocks, "STREAM_BYTES", 4 * 24 * 300)
    matrix, other = open_features(shards), open_features(plain)
    assert (matrix.unit_rows, matrix.chunk_rows, matrix.stream_rows) == (2048, 128, 256)
    read: list[int] = []
    reading = UnitArray.read

    def counting(array: UnitArray, start: int, stop: int) -> NDArray[Any]:
        read.append(stop - start)
        return reading(array, start, stop)

    monkeypatch.setattr(UnitArray, "read", counting)
    for mine, theirs in zip(matrix.stream(), other.stream(), strict=True):
        assert [a.tobytes() for a in mine] == [a.tobytes() for a in theirs]
    assert np.array_equal(matrix[[2999, 5, 1500]], other[[2999, 5, 1500]])
    assert max(read) == 256
    read.clear()
    pca = PcaOptions(dim=8, name="p", storage_dtype="float32")
    fit_pca(shards, pca, context=QUIET)
    assert sorted(read)[-1] == 2048  # of what was written, read back: a shard's few coordinates
    assert sum(count == 2048 for count in read) == 1
    fit_pca(plain, pca, context=QUIET)
    fit_pca(whole, pca, context=QUIET)
    mine, theirs = (np.asarray(open_features(one, pca="p")) for one in (shards, plain))
    assert mine.tobytes() == theirs.tobytes()
    np.testing.assert_allclose(np.asarray(open_features(whole, pca="p")), mine, atol=1e-5)


def test_what_is_imported_into_shards_is_in_shards(tmp_path: Path) -> None:
    """Not in one chunk as large as all of a shard, which no read of a few rows could afford."""
    vectors, labels = clustered(40, 3, 8, seed=2)
    store = make_store(
        tmp_path / "s.fungi", {"embeddings": vectors}, labels, unit_rows=16, shard_units=4
    )
    ids = [row["id"] for row in store.samples.rows(0, 40)]
    pq.write_table(pa.table({"id": ids, "vector": [*vectors[:, ::-1]]}), tmp_path / "v.parquet")
    asked = ImportOptions(feature="mine", feature_set="set", storage_dtype="float32")
    import_features(tmp_path / "v.parquet", store.where, asked, context=QUIET)
    array = Store.open(store.where).arrays("set")["gradients/mine"]
    assert (array.unit_rows, array.chunk_rows, len(array.commits())) == (16, 4, 3)
    assert np.array_equal(array.read(0, 40), vectors[:, ::-1])
    import_features(
        tmp_path / "v.parquet", store.where, asked, context=QUIET
    )  # once more: no other
    assert verify_store(store.where).is_sound


def test_an_import_makes_shards_where_it_is_asked_for_them(tmp_path: Path) -> None:
    """Chunks are of --unit-rows, as those of an extraction are; again, it is the same."""
    vectors, labels = clustered(40, 3, 8, seed=2)
    ids = [f"{row:03d}" for row in range(40)]
    table = {"id": ids, "label": labels, "vector": [*vectors]}
    pq.write_table(pa.table(table), tmp_path / "v.parquet")
    where = tmp_path / "s.fungi"
    for asked in (ImportOptions(unit_rows=4, shard_units=4), ImportOptions()):
        done = import_features(tmp_path / "v.parquet", where, asked, context=QUIET)
        array = Store.open(where).arrays(done.feature_set)["embeddings"]
        assert (array.unit_rows, array.shard_units, len(array.commits())) == (16, 4, 3)
    assert done.units_computed == 0
    assert np.array_equal(array.read(0, 40), vectors)
    for asked in (ImportOptions(shard_units=32), ImportOptions(shard_units=2)):
        with pytest.raises(FungiError, match=r"more chunks than rows|shard_units"):
            import_features(tmp_path / "v.parquet", where, asked, context=QUIET)
    assert verify_store(where).is_sound


def test_the_estimate_is_what_it_takes(tmp_path: Path, tiny_weights: Path) -> None:
    images = tmp_path / "images"
    write_images(images, 9)
    asked = options(tiny_weights, shard_units=4)
    told = estimate(str(images), tmp_path / "s.fungi", asked, context=QUIET)
    extract(str(images), tmp_path / "s.fungi", asked, context=QUIET)
    files = [path for path in (tmp_path / "s.fungi").rglob("*") if path.is_file()]
    taken = sum(path.stat().st_size for path in files)
    assert abs(taken - told.bytes) < 4096
    assert told.unit_rows == 16


def test_another_layout_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    images = tmp_path / "images"
    write_images(images, 5)
    extracted(images, tmp_path / "s.fungi", tiny_weights, shard_units=2)
    with pytest.raises(Exception, match=r"shard_units|unit_rows"):
        extracted(images, tmp_path / "s.fungi", tiny_weights, shard_units=4)
    with pytest.raises(UsageError, match="power of two"):
        options(tiny_weights, shard_units=3)
    asked = replace(options(tiny_weights), unit_rows=None, features=("dino",))
    with pytest.raises(UsageError, match="more chunks than rows"):
        extract(str(images), tmp_path / "s.fungi", replace(asked, shard_units=16), context=QUIET)


def test_damage_is_found_and_mended(tmp_path: Path, tiny_weights: Path) -> None:
    """A flipped byte drops one shard; lost metadata are written anew, proved by the chunks."""
    images = tmp_path / "images"
    write_images(images, 13)
    store = extracted(images, tmp_path / "s.fungi", tiny_weights, shard_units=2)
    before = all_values(store)
    array = store.arrays(TINY)["embeddings"]
    metadata = array.folder.directory() / "zarr.json"
    good = json.loads(metadata.read_bytes())
    metadata.write_bytes(b"{")
    assert not verify_store(store.where).is_sound
    repair_store(store.where)
    assert json.loads(metadata.read_bytes())["codecs"] == good["codecs"]
    chunk = array.chunk_path(0)
    file = bytearray(chunk.read_bytes())
    file[-1] ^= 1
    chunk.write_bytes(file)
    found = verify_store(store.where)
    assert [one.kind for one in found.findings] == ["chunk-damaged"]
    repair_store(store.where)
    extract(str(images), store.where, options(tiny_weights, shard_units=2), context=QUIET)
    for path, values in all_values(Store.open(store.where)).items():
        assert np.array_equal(values, before[path]), path
