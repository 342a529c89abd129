"""An index of many workers is that of one process, byte for byte, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path

import faiss
import numpy as np
import pytest
from fungi_cli.main import app
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from engine_world import OddTurns, files_of
from feature_world import Notices, clustered, make_store
from fungistore.engines.engine import Local
from fungistore.errors import StoppedError, UsageError
from fungistore.indexing.build import build_index
from fungistore.indexing.coding import tile_rows
from fungistore.indexing.options import IndexOptions
from fungistore.indexing.reference import KEPT, NONE, Reference
from fungistore.indexing.vectors import VectorIndex
from fungistore.machine.context import Context
from fungistore.matrices.blocks import normalize
from fungistore.store.backend import Listing, open_backend
from fungistore.store.locks import Slice
from fungistore.store.removed import write_removed
from fungistore.store.scratch import WORK, Scratch
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store

ROWS, DIM, UNIT, BLOCK = 1500, 24, 32, 64
FIRST = 700
LISTS = "IVF8,Flat"
FACTORIES = [LISTS, "OPQ4_16,IVF8,PQ4x4", "PCA12,IVF8,Flat", "IVF8,SQ8", "IVF8_HNSW4,PQ8x4"]
VECTORS, LABELS = clustered(ROWS, 6, DIM, seed=3)
VECTORS[[5, 400, 1400]] = np.nan
VECTORS[640:704] = np.nan  # a block without a usable row
GONE = np.array([3, 90, 91, 1499])


def grown(root: Path, rows: int) -> Path:
    """The features of so many rows; some have lost their file."""
    store = make_store(root, {"embeddings": VECTORS[:rows]}, LABELS[:rows], unit_rows=UNIT)
    write_removed(store.folder(), GONE[rows > GONE])
    return root


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("fungistore.indexing.rows.STREAM_BYTES", 4 * DIM * BLOCK)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return grown(tmp_path_factory.mktemp("features") / "s.fungi", ROWS)


@pytest.fixture
def root(features, tmp_path):
    return shutil.copytree(features, tmp_path / "s.fungi")


@pytest.fixture
def other(features, tmp_path):
    return shutil.copytree(features, tmp_path / "other.fungi")


class Once:
    """One worker that does everything, once; it keeps what it told."""

    def __init__(self):
        self.told = []

    def run(self, work, context):
        self.told = Local().run(work, context)
        return self.told


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "factory", [*FACTORIES[:1], *(pytest.param(f, marks=pytest.mark.slow) for f in FACTORIES[1:])]
)
def test_workers_give_the_index_of_one_process(root, other, factory, metric):
    """Vectors, recall and record; in odd orders, and some lost or done twice."""
    options = IndexOptions(factory=factory, metric=metric, name="i")
    alone = build_index(other, options)
    divided = build_index(root, options, engine=OddTurns())
    assert files_of(root) == files_of(other)
    assert divided.index == alone.index
    assert divided.index.vectors == divided.added == ROWS - 3 - 64 - len(GONE)
    assert list((root / WORK).iterdir()) == []
    assert verify_store(root).findings == ()


@pytest.mark.parametrize("slices", [1, 2, 7, 40])
def test_however_many_slices(root, other, slices):
    """More of them than there are blocks, too."""
    options = IndexOptions(factory=LISTS)
    build_index(other, options)
    build_index(root, options, engine=OddTurns(slices))
    assert files_of(root) == files_of(other)


@pytest.mark.parametrize("factory", FACTORIES[:1])
def test_what_is_new_is_divided_too(tmp_path, factory):
    """Grown rows, of a unit that was not full too, and rows whose file is there again."""
    options, found = IndexOptions(factory=factory, name="i"), []
    root = grown(tmp_path / "s.fungi", FIRST)
    build_index(root, options)
    for name, engine in (("alone", Local()), ("divided", OddTurns())):
        copy = grown(shutil.copytree(root, tmp_path / name), FIRST)
        grown(copy, ROWS)
        done = build_index(copy, options, engine=engine)
        assert done.added == done.index.vectors - (FIRST - 2 - 60 - 3)
        write_removed(Store.open(copy).folder(), GONE[:1])
        build_index(copy, options, engine=engine)
        files = files_of(copy)
        index = {path: data for path, data in files.items() if path.startswith("indexes/")}
        found.append({path: data for path, data in index.items() if "index.json" not in path})
        found[-1]["record"] = without_store(index["indexes/set/i/index.json"])
    assert found[0] == found[1]
    assert len(found[0]) == 3


def without_store(data):
    """A record as far as two stores of the same features agree."""
    document = json.loads(data)
    return json.dumps({k: v for k, v in document.items() if k not in ("store", "checksum")})


def test_a_stopped_run_goes_on_with_what_its_workers_found(root, other):
    """Nothing is found twice, whether the workers were stopped or the one that adds."""
    options, steps = IndexOptions(factory=LISTS), count()
    build_index(other, options)
    with pytest.raises(StoppedError):
        build_index(root, options, engine=Once(), context=Context(stop=lambda: next(steps) > 10))
    (left,) = (root / WORK).iterdir()
    kept = {path.name for path in left.iterdir() if path.name.isdigit()}
    blocks = -(-ROWS // BLOCK)
    assert 0 < len(kept) < blocks
    adding, finds = Once(), VectorIndex.add_found
    with pytest.MonkeyPatch.context() as monkey:
        left_to_add = iter(range(7))

        def killed(self, codes, rows):
            if next(left_to_add, None) is None:
                raise KeyboardInterrupt
            finds(self, codes, rows)

        monkey.setattr(VectorIndex, "add_found", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(root, options, engine=adding)
    assert adding.told == [{"made": blocks - len(kept)}]
    assert [one.kind for one in verify_store(root).findings] == ["orphan"]
    last = Once()
    build_index(root, options, engine=last)
    assert last.told == [{"made": 0}]
    assert files_of(root) == files_of(other)
    assert not left.exists()


@pytest.mark.parametrize("engine", [Local(), OddTurns()], ids=["alone", "divided"])
def test_a_stopped_run_of_another_state_is_not_gone_on_with(root, tmp_path, engine):
    """Rows that lost their file meanwhile are not in what comes; what was found is swept."""
    options, steps = IndexOptions(factory=LISTS), count()
    with pytest.raises(StoppedError):
        build_index(root, options, engine=Once(), context=Context(stop=lambda: next(steps) > 10))
    (left,) = (root / WORK).iterdir()
    write_removed(Store.open(root).folder(), np.append(GONE, 1499 - 10)[[0, 1, 2, 4, 3]])
    other = shutil.copytree(root, tmp_path / "same.fungi")
    build_index(root, options, engine=engine)
    assert not left.exists()
    build_index(other, options)
    assert files_of(root) == files_of(other)


def test_vectors_that_are_kept_whole_do_not_lie_in_the_store_twice(root, monkeypatch):
    """Workers leave the lists of whole vectors alone, a byte each here, and codes of others."""
    sizes = {}
    write = Scratch.write

    def look(self, name, tensors):
        if "codes" in tensors:
            sizes[name] = tensors["codes"].shape[1]
        write(self, name, tensors)

    monkeypatch.setattr(Scratch, "write", look)
    build_index(root, IndexOptions(factory=LISTS, name="whole"), engine=Once())
    assert set(sizes.values()) == {1}
    build_index(root, IndexOptions(factory="IVF8,SQ8", name="small"), engine=Once())
    assert set(sizes.values()) == {1 + DIM}


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "SQ8", "IVF8,PQ8x4fs", "IVF4,Flat,RFlat"])
def test_what_cannot_be_divided_is_done_alone_and_said(root, factory):
    """No worker is started; the index is whole."""

    class Nobody:
        def run(self, work, context):
            raise AssertionError

    said = []
    options = IndexOptions(factory=factory)
    done = build_index(root, options, engine=Nobody(), context=Context(Notices(said)))
    assert any("by this process alone" in text and "IVF...,PQ..." in text for text in said)
    assert done.added == ROWS - 3 - 64 - len(GONE)
    assert verify_store(root).findings == ()


def test_processes_started_by_hand_are_refused(root):
    """Nobody would add what they find; nothing is written."""
    before = files_of(root)
    with pytest.raises(UsageError, match="started by hand"):
        build_index(root, engine=Local(Slice(0, 2)))
    done = CliRunner().invoke(app, ["index", str(root), "--worker-id", "0", "--num-workers", "2"])
    assert (done.exit_code, "--processes" in done.stderr) == (2, True)
    assert files_of(root) == before


@pytest.mark.slow
def test_a_store_that_is_no_directory_is_divided_too(root, other):
    """What workers are given, and leave, goes through the backend alone."""
    where = "memory://index.fungi"
    place = open_backend(where)
    place.make_room()
    for name, data in files_of(root).items():
        place.publish(name, data)
    options = IndexOptions(factory=FACTORIES[1])
    build_index(where, options, engine=OddTurns())
    build_index(other, options)
    files = files_of(other)
    assert {name: place.read(name) for name in files} == files
    assert place.list(WORK) == Listing()


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "dim"), [(5000, 24), (1300, 520), (70, 24)])
@pytest.mark.parametrize("factory", ["IVF32,Flat", "OPQ8_16,IVF16,PQ8x4"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_codes_and_neighbours_depend_on_no_threads(rows, dim, factory, metric):
    """Equal bits with 1, 2 and 3 threads, of rows that end a tile or do not, and by themselves."""
    vectors, _ = clustered(rows, 5, dim, seed=1)
    index = VectorIndex.make(factory, dim, metric)
    index.train(clustered(400, 5, dim, seed=1)[0])
    reference = Reference.of(np.arange(9) * 7, vectors[np.arange(9) * 7])
    coder, found = index.coder, []
    assert coder is not None
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            near = reference.near(vectors, np.arange(rows), metric)
            found.append((index.codes(coder, vectors.copy()), near.rows, near.distances))
    for one in found[1:]:
        assert [a.tobytes() for a in one] == [a.tobytes() for a in found[0]]
    cut = min(rows, tile_rows(dim))
    assert index.codes(coder, vectors[:cut].copy()).tobytes() == found[0][0][:cut].tobytes()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_lists_and_neighbours_are_those_of_brute_force(metric):
    """In float64, by NumPy, over several tiles; the query itself is no neighbour of its own."""
    rows, dim = 9000, 16
    vectors, _ = clustered(rows, 5, dim, seed=2)
    index = VectorIndex.make("IVF16,Flat", dim, metric)
    index.train(vectors.copy())
    own = np.array([4, 4097, 8999])
    reference = Reference.of(own, vectors[own])
    reference.update(vectors, np.arange(rows), metric)
    coder, exact = index.coder, vectors.astype(np.float64)
    assert coder is not None
    if metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    far = np.linalg.norm(exact[own, None] - exact[None], axis=2)
    far[np.arange(len(own)), own] = np.inf
    np.testing.assert_array_equal(reference.neighbours, np.argsort(far, axis=1)[:, :KEPT])
    quantizer = faiss.downcast_index(index._index.quantizer)
    centroids = quantizer.reconstruct_n(0, 16).astype(np.float64)
    scores = exact @ centroids.T
    if metric == "euclidean":
        scores -= (centroids**2).sum(axis=1) / 2
    lists = index.codes(coder, vectors.copy())[:, 0]
    np.testing.assert_array_equal(lists, scores.argmax(axis=1))


@pytest.mark.slow
def test_a_trained_index_travels_without_its_vectors():
    """What a worker gets is of one size and of the same bytes however many vectors there are."""
    vectors, _ = clustered(3000, 5, DIM, seed=1)
    index = VectorIndex.make(FACTORIES[1], DIM, "cosine")
    index.train(vectors.copy())
    assert index.coder is not None
    before = index.coder.trained().tobytes()
    index.add(vectors.copy(), np.arange(3000))
    index.set_effort(4)
    found = index.search(vectors[:9], 5)
    assert index.coder.trained().tobytes() == before
    again = index.search(vectors[:9], 5)
    assert [a.tobytes() for a in again] == [a.tobytes() for a in found]
    assert index.count == 3000
    worker = VectorIndex.untied(index.coder.trained(), "cosine", None)
    assert worker.coder is not None
    assert worker.coder.trained().tobytes() == before
    normalize(vectors)
    assert (worker.count, NONE in worker.search(vectors[:1], 1)[1]) == (0, True)


@pytest.mark.slow
def test_processes_give_the_index_of_one_process(root, other):
    """Real ones, with half of the cores each, as the command line starts them."""
    flags = ["--factory", "IVF8,SQ8"]
    assert CliRunner().invoke(app, ["index", str(other), *flags]).exit_code == 0
    done = CliRunner().invoke(app, ["index", str(root), *flags, "--processes", "2"])
    assert done.exit_code == 0, done.output
    assert files_of(root) == files_of(other)
