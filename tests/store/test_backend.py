"""The backend behind a store: what every one does, and a store that has no directory at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

import memory_backend
from feature_world import ListSource, clustered, make_store, write_block
from fungistore.errors import FungiError, StoreError, UsageError
from fungistore.evaluation.knn import KnnOptions, evaluate_knn
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET
from fungistore.matrices.blocks import open_features
from fungistore.pca.stage import PcaOptions, fit_pca
from fungistore.remote.bucket import forget_buckets
from fungistore.searching.options import SearchOptions
from fungistore.searching.search import search
from fungistore.sources.sample import Sample
from fungistore.store import durable, local
from fungistore.store.backend import BACKENDS, Backend, Listing, open_backend
from fungistore.store.failures import Failure
from fungistore.store.gather import MappedChunks
from fungistore.store.listing import add_source
from fungistore.store.local import LocalBackend
from fungistore.store.setups import OPTIONS
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store
from plugins import install, write_plugin
from s3_world import bucket, s3_server
from tiny_world import TINY

WHERE = "memory://pets.fungi"
PLUGIN = "double://pets.fungi"
__all__ = ["bucket", "s3_server"]  # fixtures


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """A memory of each test's own."""
    forget_buckets()
    yield
    forget_buckets()


def place(kind: str, request: pytest.FixtureRequest) -> str:
    """Return where a store of a kind can be made."""
    if kind == "s3":
        return f"{request.getfixturevalue('bucket')}/a/s.fungi"
    path: Path = request.getfixturevalue("tmp_path")
    return {"local": str(path / "s.fungi"), "memory": WHERE, "plugin": PLUGIN}[kind]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that serves `double://` stores."""
    source = Path(memory_backend.__file__).read_text(encoding="utf-8")
    points = {"fungistore.backends": {"double": "memory_store:open_url"}}
    write_plugin(tmp_path / "plugin", "memory_store", source, points)
    install(monkeypatch, tmp_path / "plugin", "memory_store", BACKENDS)


@pytest.fixture(params=["local", "memory", "s3", "plugin"])
def backend(request: pytest.FixtureRequest, plugin: None) -> Backend:
    """An empty place of each kind."""
    found = open_backend(place(request.param, request))
    assert found.make_room()
    return found


# --- what every backend does


def test_objects_are_published_listed_and_removed(backend: Backend) -> None:
    """Keys make folders; an object replaces the one before; what is gone is not listed."""
    backend.publish("a/b/one", b"1", memoryview(b"23"))
    backend.publish("a/two", b"")
    backend.publish_file("a/b/three", lambda path: path.write_bytes(b"333") and None)
    assert backend.list("a") == Listing(("two",), ("b",))
    assert backend.list("a/b") == Listing(("one", "three"), ())
    assert backend.list("nothing") == Listing()
    assert (backend.read("a/b/one"), backend.size("a/b/three")) == (b"123", 3)
    backend.publish("a/b/one", b"new")
    assert backend.local_path("a/b/one").read_bytes() == b"new"
    backend.remove("a/b")
    backend.remove("a/nothing")
    assert backend.list("a").files == ("two",)
    assert not backend.has("a/b/one")
    assert not list(backend.leftovers())


def test_a_missing_object_is_a_missing_file(backend: Backend) -> None:
    """Whatever the backend, callers catch one kind of error."""
    backend.publish("a/one", b"1")
    for ask in (backend.read, backend.size, lambda key: backend.ranges(key, [0], [1])):
        for key in ("nothing", "a/nothing"):
            with pytest.raises(FileNotFoundError):
                ask(key)
    assert backend.sizes(["a/one", "a/nothing"]) == {"a/one": 1}
    assert backend.read_all("nothing") == {}
    assert backend.tag("nothing") is None


def test_many_are_what_they_are_one_by_one(backend: Backend) -> None:
    """What takes fewer requests gives what the plain forms of docs/extending.md do."""
    data = bytes(range(200))
    objects = {f"a/{name}": [data[:number], data[number:]] for number, name in enumerate("xyz")}
    backend.publish_all(objects | {"a/b/deeper": [b""]})
    keys = list(objects)
    assert backend.read_all("a") == {name: data for name in "xyz"}
    assert backend.sizes(keys) == {key: backend.size(key) for key in keys}
    pairs = [(0, 200), (7, 1), (190, 10), (3, 4)]
    assert [bytes(part) for part in backend.ranges("a/y", *zip(*pairs, strict=True))] == [
        data[start : start + count] for start, count in pairs
    ]
    before = backend.tag("a/x")
    with backend.once():
        backend.soon("read", *keys)
        backend.soon("list", "a")
        backend.soon("sizes", "a")
        backend.soon("read_all", "a")
        assert [backend.read(key) for key in keys] == 3 * [data]
        assert backend.list("a") == Listing(("x", "y", "z"), ("b",))
        assert backend.sizes(keys) == dict.fromkeys(keys, 200)
        assert backend.read_all("a") == {name: data for name in "xyz"}
    backend.publish("a/x", b"new")
    assert before is None or backend.tag("a/x") != before
    assert backend.read_all("a")["x"] == b"new"
    assert backend.sizes(["a/x"]) == {"a/x": 3}
    assert bytes(backend.ranges("a/x", [1], [2])[0]) == b"ew"


def test_lines_are_appended_whole(backend: Backend) -> None:
    """A line that a kill cut short is ended, so that the next one is whole."""
    backend.append("lines", b"one\n")
    backend.append("lines", b"two\n")
    assert backend.read("lines") == b"one\ntwo\n"
    backend.publish("lines", b"one\ntw")
    backend.append("lines", b"three\n")
    assert backend.read("lines") == b"one\ntw\nthree\n"


def test_a_scratch_file_goes_again(backend: Backend) -> None:
    """It is a file of this machine, for what memory may not hold."""
    with backend.scratch() as path:
        path.write_bytes(b"much")
    assert not path.exists()


def test_what_is_written_is_claimed(backend: Backend) -> None:
    """A second writer of the same thing is refused; other things and readers are not."""
    store = Store.open_or_create(backend)
    with store.writing("features/a"):
        (claim,) = store.writers()
        assert claim.thing == "features/a"
        with store.writing("features/b"):
            pass
        with pytest.raises(FungiError, match="another process"), store.writing("features"):
            pass
    assert store.writers() == []
    with store.writing():
        pass


@pytest.mark.parametrize("codec", ["none", "zstd", "bitround"])
def test_both_backends_hold_the_same_bytes(tmp_path: Path, codec: Any) -> None:
    """Records, metadata and chunks are the same objects, on a disk or not."""
    from fungistore.store.units import UnitArray

    values = np.random.default_rng(0).normal(size=(20, 4, 4, 8)).astype(np.float16)
    arrays = [
        UnitArray.create(
            place,
            "set/patches",
            shape=values.shape,
            dtype="float16",
            unit_rows=8,
            codec=codec,
            fingerprint="f",
        )
        for place in (LocalBackend(tmp_path / "s.fungi"), open_backend(WHERE))
    ]
    for array in arrays:
        for unit in range(array.units):
            array.publish(unit, values[8 * unit : 8 * unit + 8], ids="", failed=0)
        array.grow(24)
    local, memory = (array.folder.backend for array in arrays)
    keys = [
        path.relative_to(tmp_path / "s.fungi").as_posix()
        for path in (tmp_path / "s.fungi").rglob("*")
        if path.is_file()
    ]
    assert len(keys) == 9  # three of zarr's metadata, three chunks, three records
    assert all(local.read(key) == memory.read(key) for key in keys)
    np.testing.assert_array_equal(arrays[0].read(0, 20), arrays[1].read(0, 20))


# --- a directory of this machine


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The files and folders that are flushed from now on."""
    found: set[Path] = set()
    for module in (durable, local):
        monkeypatch.setattr(module, "sync", found.add)
    return found


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    """What an interrupted write left is a leftover, and nothing else."""
    place = LocalBackend(tmp_path)
    place.publish("a/one", b"1")
    unfinished = durable.partial_path(tmp_path / "a/two")
    unfinished.write_bytes(b"2")
    assert place.list("a") == Listing(("one",))
    assert list(place.leftovers()) == [f"a/{unfinished.name}"]


def test_folders_of_a_killed_process_are_flushed(tmp_path: Path, flushed: set[Path]) -> None:
    """Who made a folder may have died before it was on the disk; what is put there needs it."""
    (tmp_path / "features/c").mkdir(parents=True)
    LocalBackend(tmp_path).publish("features/c/0", b"1")
    assert {tmp_path, tmp_path / "features", tmp_path / "features/c"} <= flushed


def test_a_new_file_of_lines_is_flushed_with_its_folder(tmp_path: Path, flushed: set[Path]) -> None:
    """The lines of a file that the folder does not list yet would be lost with it."""
    LocalBackend(tmp_path).append("lines", b"one\n")
    assert flushed == {tmp_path}


def test_a_backend_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is of the directory in which the store was opened."""
    monkeypatch.chdir(tmp_path)
    store = Store.open_or_create("run:1.fungi")
    add_source(store, ListSource([Sample("a", "a", None, None)]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(store.samples.rows(0, 1)) == 1
    assert store.where == "run:1.fungi"


def test_a_linked_place_is_emptied(tmp_path: Path) -> None:
    """The user's link to another disk stays, and nothing is left of the store behind it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "s.fungi").symlink_to(tmp_path / "disk")
    Store.open_or_create(tmp_path / "s.fungi").remove()
    assert list((tmp_path / "s.fungi").iterdir()) == []


def test_indexes_may_be_links_to_another_disk(tmp_path: Path) -> None:
    """What was moved away, with a link in its place, is found, searched and verified."""
    vectors, labels = clustered(64, 2, 8)
    make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    build_index(tmp_path / "s.fungi", IndexOptions(name="exact"))
    place, disk = tmp_path / "s.fungi/indexes/set/exact", tmp_path / "disk"
    place.rename(disk)
    place.symlink_to(disk)
    found = search(tmp_path / "s.fungi", ["000003.jpg"], SearchOptions(index="exact", k=3))
    assert len(found.answers) == 1
    assert verify_store(tmp_path / "s.fungi").findings == ()
    (disk / "vectors-64.faiss").write_bytes(b"")
    (finding,) = verify_store(tmp_path / "s.fungi").findings
    assert finding.kind == "index-damaged"


def test_two_sets_freeze_one_setup_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their options differ in the set's name: the files of one and the checksums of it stay."""
    store, late = Store.open_or_create(tmp_path / "s.fungi"), []

    def publish(backend: LocalBackend, key: str, *pieces: Any) -> None:
        if key.endswith(OPTIONS) and not late:
            late.append(Thread(target=freeze, args=("second",)))
            late[0].start()
            late[0].join(0.5)
        whole(backend, key, *pieces)

    def freeze(name: str) -> None:
        Store.open(store.root).setups.freeze({"seed": 1}, {}, {"options": {"name": name}})

    whole = LocalBackend.publish
    monkeypatch.setattr(LocalBackend, "publish", publish)
    freeze("first")
    late[0].join()
    assert verify_store(store.root).errors == ()
    (key,) = store.setups.names()
    assert store.setups.document(key, OPTIONS) == {"name": "first"}


# --- a store without a directory


def test_stages_work_where_there_is_no_directory(tmp_path: Path) -> None:
    """PCA, index, search, evaluation, head, status, verification and repair need no local store."""
    vectors, labels = clustered(64, 2, 8)
    blocks = {"embeddings": vectors, "gradients/kl": vectors}
    local = make_store(tmp_path / "s.fungi", blocks, labels)
    store = make_store(WHERE, blocks, labels)
    store.add_failures([Failure(3, "x.jpg", "ImageError", "broken", "set")])
    store.compact_failures()
    assert not Path("memory:").exists()
    for place in (local.where, WHERE):
        fit_pca(place, PcaOptions(dim=4, name="four", fit_split="all"))
        build_index(place, IndexOptions(name="exact"))
        build_index(place, IndexOptions(name="graph", factory="HNSW8"))
    near = SearchOptions(index="graph", k=3)
    found = [search(place, ["000003.jpg"], near) for place in (local.where, WHERE)]
    assert found[0].answers == found[1].answers
    scores = [evaluate_knn(place, KnnOptions(k=3, holdout=0.25)) for place in (local.where, WHERE)]
    assert scores[0].scores == scores[1].scores
    saved = scores[1].save(QUIET)
    assert saved is not None
    assert saved.startswith(f"{WHERE}/evals/knn-set-")
    settings = TrainOptions(head="linear", epochs=1, holdout=0.25, dtype="float32", name="h")
    train_loff(WHERE, settings)
    assert evaluate_loff(WHERE, LoffOptions(heads=("h",))).scores
    (feature_set,) = status(WHERE).feature_sets
    assert {array.rows_done for array in feature_set.arrays} == {64}
    assert status(WHERE).failed == 1
    assert [finding.kind for finding in verify_store(WHERE).findings] == []


def test_commands_take_the_url_of_a_store() -> None:
    """STORE on the command line is text: a URL reaches the backend as it was typed."""
    vectors, labels = clustered(32, 2, 8)
    make_store(WHERE, {"embeddings": vectors}, labels)
    for command in (["status"], ["verify"], ["eval", "knn", "--holdout", "0.3", "--k", "3"]):
        done = CliRunner().invoke(app, [*command, WHERE, "--json"])
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["store"] == WHERE


def test_a_store_without_a_directory_is_repaired(tmp_path: Path) -> None:
    """Damage is found and dropped by key, and the next run makes exactly that again."""
    vectors, labels = clustered(64, 2, 8)
    store = make_store(WHERE, {"embeddings": vectors}, labels)
    chunk = "features.zarr/set/embeddings/c/1/0"
    store.backend.publish(chunk, b"\0" * store.backend.size(chunk))
    record = json.loads(store.backend.read("commits/set/embeddings/00000002.json"))
    record["nan_rows"] = 5
    store.backend.publish("commits/set/embeddings/00000002.json", json.dumps(record).encode())
    repaired = repair_store(WHERE)
    assert {finding.kind for finding in repaired.repaired} == {"chunk-damaged", "counts-differ"}
    assert sorted(Store.open(WHERE).arrays("set")["embeddings"].commits()) == [0, 3]
    write_block(store, "set", "embeddings", vectors)
    assert verify_store(WHERE).findings == ()
    assert len(open_features(store).load()[0]) == 64


def test_images_are_extracted_where_there_is_no_directory(
    images: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """The same features as on a disk, grown and restarted the same way."""
    options = ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=64,
        features=("embeddings", "kl", "patches"),
        unit_rows=8,
        batch_size=4,
        device="cpu",
        limit=10,
    )
    for place in (tmp_path / "s.fungi", WHERE):
        assert extract(str(images), place, options).units_computed == 2
        assert extract(str(images), place, options).units_computed == 0
    for name, array in Store.open(tmp_path / "s.fungi").arrays(options.name).items():
        other = Store.open(WHERE).arrays(options.name)[name]
        np.testing.assert_array_equal(other.read(0, 10), array.read(0, 10))
    extract(str(images), WHERE, options, restart=True)
    assert verify_store(WHERE).findings == ()


def test_lost_objects_are_said_as_lost_files_are(tmp_path: Path) -> None:
    """Where there is no directory, a lost index or chunk is a finding and a StoreError too."""
    vectors, labels = clustered(64, 2, 8)
    for place in (tmp_path / "s.fungi", WHERE):
        store = make_store(place, {"embeddings": vectors}, labels)
        build_index(place, IndexOptions(name="exact"))
        store.backend.remove("indexes/set/exact/vectors-64.faiss")
        assert [finding.kind for finding in verify_store(place).findings] == ["index-damaged"]
        with pytest.raises(StoreError, match="index cannot be read"):
            search(place, ["000003.jpg"], SearchOptions(index="exact"))
        store.backend.remove("features.zarr/set/embeddings/c/1/0")
        chunks = MappedChunks(store.arrays("set")["embeddings"], parts=1)
        (job,) = chunks.jobs(np.array([20]), np.empty((1, 8), np.float32))
        with pytest.raises(StoreError, match="chunk is missing"):
            job()


def test_what_is_not_there_is_said_by_its_url() -> None:
    """Errors name the place as the user did."""
    with pytest.raises(UsageError, match="memory://none"):
        Store.open("memory://none")
    backend = open_backend("memory://damaged")
    backend.make_room()
    backend.publish("store.json", b"{")
    with pytest.raises(StoreError, match=r"memory://damaged/store\.json"):
        Store.open("memory://damaged")


def test_an_unknown_url_is_refused(tmp_path: Path) -> None:
    """Nothing is made at a path that looks like a URL; a file:// URL is a directory."""
    with pytest.raises(UsageError, match="memory"):
        Store.open_or_create("nowhere://x.fungi")
    store = Store.open_or_create(f"file://{tmp_path}/s%20t.fungi")
    assert store.root == tmp_path / "s t.fungi"
    assert Store.open(str(store.root)).manifest.id == store.manifest.id


def test_settling_goes_wherever_no_chunks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are in features.zarr alone; elsewhere a feature set may be named as their folder."""
    for name in ("commits/c/embeddings", "features.zarr/c/embeddings/c/0", "indexes/c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "features.zarr/c/zarr.json").write_text("{}")
    settled: list[str] = []
    place = "fungistore.store.local.sync"
    monkeypatch.setattr(place, lambda path: settled.append(path.relative_to(tmp_path).as_posix()))
    LocalBackend(tmp_path).settle()
    assert {"commits/c/embeddings", "features.zarr/c/embeddings", "indexes/c"} <= set(settled)
    assert "features.zarr/c/embeddings/c" not in settled
