"""Indexes: neighbours against brute force, growth, stops, checks, and the automatic choice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from feature_world import clustered, make_store, write_block
from fungistore.errors import MismatchError, StoppedError, StoreError, UsageError
from fungistore.fingerprint import canonical_json
from fungistore.indexing.build import build_index
from fungistore.indexing.choose import TRAIN_BYTES, choose_factory, part_count, training_rows
from fungistore.indexing.opening import open_index
from fungistore.indexing.options import IndexOptions
from fungistore.indexing.record import Recall
from fungistore.indexing.reference import Reference
from fungistore.indexing.vectors import VectorIndex
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.searching.search import search
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store

ROWS = 600
VECTORS, LABELS = clustered(ROWS, 6, 24)
MORE, _ = clustered(ROWS, 6, 16, seed=1)
BAD = (7, 123)
GB = 1_000_000_000


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...


def store_of(root: Path, rows: int = ROWS) -> Store:
    """A store of two blocks in which two rows are unusable."""
    embeddings, kl = VECTORS[:rows].copy(), MORE[:rows].copy()
    embeddings[BAD[0]], kl[BAD[1]] = np.nan, np.inf
    blocks = {"embeddings": embeddings, "gradients/kl": kl}
    return make_store(root, blocks, LABELS[:rows], unit_rows=32)


def brute_force(store: Store, metric: str, k: int, *features: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest of every usable row, by numpy in float64."""
    rows, vectors = open_features(store, features or None).load()
    exact = vectors.astype(np.float64)
    if metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        far = 1 - exact @ exact.T
    else:
        far = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    order = np.argsort(far, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(far, order, axis=1), rows[order]


def stop_after(calls: int) -> Callable[[], bool]:
    """A `stop` that says yes from the given call on."""
    count = iter(range(1_000_000))
    return lambda: next(count) >= calls


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_flat_index_finds_what_brute_force_finds(tmp_path: Path, metric: str) -> None:
    """Distances and rows are those of numpy; unusable rows are absent and counted."""
    store = store_of(tmp_path / "s")
    done = build_index(tmp_path / "s", IndexOptions(metric=metric))  # type: ignore[arg-type]
    assert (done.index.vectors, done.index.excluded, done.added) == (ROWS - 2, 2, ROWS - 2)
    assert (done.index.name, done.index.factory) == (f"embeddings+kl-{metric}", "Flat")
    assert done.index.recall is not None
    assert (done.index.recall.value, done.index.recall.queries) == (1.0, 0)
    opened = open_index(store)
    _, queries = opened.matrix.load()
    far, rows = opened.vectors.search(queries, 8)
    expected_far, expected = brute_force(store, metric, 8)
    # a Euclidean distance is the root of a difference: float32 leaves 1e-3 where it should be 0
    np.testing.assert_allclose(far, expected_far, atol=2e-3 if metric == "euclidean" else 1e-5)
    np.testing.assert_array_equal(rows, expected)
    assert not set(BAD) & set(rows.ravel().tolist())


def test_cosine_and_euclidean_differ_where_vectors_have_lengths(tmp_path: Path) -> None:
    """Over a PCA, which is not normalised, a long vector is near by angle and far by distance."""
    store = store_of(tmp_path / "s")
    coordinates = np.array([[1, 0], [9, 0.1], [1, 0.5], *[[-1, i] for i in range(20)]], np.float32)
    write_block(store, "set", "pca/two", coordinates, unit_rows=32)
    nearest = {}
    for metric in ("cosine", "euclidean"):
        build_index(tmp_path / "s", IndexOptions(pca="two", metric=metric))  # type: ignore[arg-type]
        opened = open_index(store, f"pca-two-{metric}")
        nearest[metric] = opened.vectors.search(coordinates[:1], 2)[1][0].tolist()
    assert nearest == {"cosine": [0, 1], "euclidean": [0, 2]}


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("HNSW16", 0.95),
        ("IVF8,Flat", 0.95),
        ("IVF4,PQ8x4", 0.3),
        ("SQ8", 0.9),
        ("PCA16,IVF4,Flat", 0.4),
        ("PCA24,Flat", 0.4),
        ("IVF4,Flat,RFlat", 0.95),
    ],
)
def test_any_faiss_factory_is_searched_by_row_and_its_recall_is_true(
    tmp_path: Path, factory: str, least: float
) -> None:
    """The stored recall is what brute force gives for the stored queries, whatever the kind."""
    store = store_of(tmp_path / "s")
    done = build_index(tmp_path / "s", IndexOptions(factory=factory, name="x"))
    recall = done.index.recall
    assert recall is not None
    assert recall.value >= least
    assert recall.queries > 100
    opened = open_index(store)
    assert opened.record.effort == done.index.effort
    path = tmp_path / "s/indexes/set/x" / done.index.files["reference"].name
    from safetensors.numpy import load_file

    held_out = load_file(path)["rows"]
    numbers, vectors = opened.matrix.load()
    _, everything = brute_force(store, "cosine", 11)
    truth = {int(r[0]): set(r[1:].tolist()) for r in everything}
    hits = []
    for row in held_out.tolist():
        _, found = opened.vectors.search(vectors[numbers == row], 11)
        others = [one for one in found[0].tolist() if one not in (row, -1)][:10]
        hits.append(len(truth[row] & set(others)) / 10)
    assert np.mean(hits) == pytest.approx(recall.value, abs=2e-3)


@pytest.mark.parametrize(
    ("factory", "metric"),
    [("HNSW32", "cosine"), ("IVF4,Flat", "euclidean"), ("IVF4,PQ4x4", "cosine")],
)
def test_equal_images_are_as_good_as_each_other(tmp_path: Path, factory: str, metric: str) -> None:
    """Many copies of each image: any ten of them are the ten nearest."""
    base = np.random.default_rng(0).normal(size=(10, 32)).astype(np.float32)
    copies = 100 if "PQ" not in factory else 60  # estimates cannot be compared with distances
    make_store(tmp_path / "s", {"embeddings": np.repeat(base, copies, 0)}, ["a"] * 10 * copies)
    done = build_index(tmp_path / "s", IndexOptions(factory=factory, metric=metric))  # type: ignore[arg-type]
    assert done.index.recall is not None
    assert done.index.recall.value > 0.99


def test_any_of_the_nearest_that_are_equal_is_found() -> None:
    """Where distances are estimates, more exact neighbours than ten are known by their rows."""
    vectors = np.repeat(np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32), 30, axis=0)
    reference = Reference.of(np.array([0]), vectors[:1].copy())
    reference.update(vectors, np.arange(60), "cosine")
    index = VectorIndex.make("SQ8", 8, "cosine")
    index.train(vectors.copy())
    index.add(vectors[18:31].copy(), np.arange(18, 31))  # twelve equal ones, one that is not
    assert not index.measures_exactly
    assert reference.recall(index) == Recall(10, 1.0, 1)


def test_a_near_miss_is_a_miss(tmp_path: Path) -> None:
    """Vectors of one scene are told apart: a search of one list of many does not find all."""
    random = np.random.default_rng(0)
    vectors = (random.normal(size=32) + 0.03 * random.normal(size=(ROWS, 32))).astype(np.float32)
    make_store(tmp_path / "s", {"embeddings": vectors}, ["a"] * ROWS)
    options = IndexOptions(factory="IVF32,Flat", target_recall=0.1)
    recall = build_index(tmp_path / "s", options).index.recall
    assert recall is not None
    assert recall.value < 0.8


def test_queries_and_training_rows_are_drawn_among_usable_ones(tmp_path: Path) -> None:
    """Of a partly matched import, most rows have no vector to measure a recall by."""
    vectors = np.full((ROWS, 24), np.nan, np.float32)
    vectors[::10] = VECTORS[::10]
    make_store(tmp_path / "s", {"embeddings": vectors}, LABELS, unit_rows=32)
    index = build_index(tmp_path / "s", IndexOptions(factory="IVF4,Flat")).index
    assert index.recall is not None
    assert (index.recall.queries, index.trained_on, index.vectors) == (15, 45, 60)


def test_recall_queries_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vector of the training sample is one of the held-out queries; two runs train alike."""
    seen: list[np.ndarray] = []
    train = VectorIndex.train

    def spy(self: VectorIndex, sample: np.ndarray) -> None:
        seen.append(sample.copy())
        train(self, sample)

    monkeypatch.setattr(VectorIndex, "train", spy)
    store = store_of(tmp_path / "s")
    options = IndexOptions(factory="IVF4,Flat", name="x", metric="euclidean")
    build_index(tmp_path / "s", options)
    from safetensors.numpy import load_file

    (path,) = (tmp_path / "s/indexes/set/x").glob("reference-*")
    held_out = open_features(store).load(load_file(path)["rows"])[1]
    trained = {row.tobytes() for row in seen[0]}
    assert len(trained) > 400
    assert not trained & {row.tobytes() for row in held_out}
    build_index(tmp_path / "s", options, restart=True)
    np.testing.assert_array_equal(seen[0], seen[1])


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16"])
def test_a_stopped_index_resumes_to_what_one_run_gives(tmp_path: Path, factory: str) -> None:
    """Stopped between blocks again and again, it ends with the same vectors and neighbours."""
    store = store_of(tmp_path / "s")
    options = IndexOptions(factory=factory)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("fungistore.indexing.rows.STREAM_BYTES", 1)  # a unit at a time
    stops = 0
    with monkey.context():
        for _ in range(20):
            try:
                build_index(tmp_path / "s", options, context=Context(stop=stop_after(8)))
                break
            except StoppedError as error:
                stops += 1
                assert "run the same command again" in str(error)
    monkey.undo()
    assert stops >= 2
    pieces = open_index(store)
    assert pieces.record.vectors == ROWS - 2
    whole_store = store_of(tmp_path / "whole")
    build_index(tmp_path / "whole", options)
    whole = open_index(whole_store)
    _, queries = whole.matrix.load()
    ours, theirs = (one.vectors.search(queries, 5)[1] for one in (pieces, whole))
    if factory == "HNSW16":  # levels are drawn anew in each run: another graph, as good
        assert (ours == theirs).mean() > 0.98
    else:
        np.testing.assert_array_equal(ours, theirs)
    files = sorted(
        path.name for path in (tmp_path / "s/indexes/set" / pieces.record.name).iterdir()
    )
    assert files == sorted(["index.json", *(f.name for f in pieces.record.files.values())])


def test_a_checkpoint_is_a_whole_index_of_fewer_rows(tmp_path: Path) -> None:
    """With a checkpoint after every block, a kill leaves an index that can be searched."""
    store = store_of(tmp_path / "s")
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr("fungistore.indexing.rows.STREAM_BYTES", 1)
        monkey.setattr("fungistore.indexing.builder.CHECKPOINT_SHARE", 0)
        add = VectorIndex.add
        left = iter(range(6))

        def killed(self: VectorIndex, vectors: np.ndarray, rows: np.ndarray) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            add(self, vectors, rows)

        monkey.setattr(VectorIndex, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path / "s", checkpoint_seconds=0)
    opened = open_index(store)
    assert opened.record.rows_done == 6 * 32
    assert opened.vectors.count == opened.record.vectors == 6 * 32 - 2
    notes = Notes()
    build_index(tmp_path / "s", context=Context(notes))
    assert notes.texts == [f"resuming embeddings+kl-cosine: 192/{ROWS} rows done, 408 to go"]


def test_the_same_command_adds_only_new_rows(tmp_path: Path) -> None:
    """A grown store's index has the neighbours of one built at once, and says what was added."""
    first = 400
    store_of(tmp_path / "s", first)
    for factory, name in (("Flat", "flat"), ("IVF4,Flat", "ivf")):
        build_index(tmp_path / "s", IndexOptions(factory=factory, name=name))
    before = (tmp_path / "s/indexes/set/ivf/index.json").read_bytes()
    assert json.loads(before)["rows_done"] == first
    grown = store_of(tmp_path / "s")
    for factory, name in (("Flat", "flat"), ("IVF4,Flat", "ivf")):
        notes = Notes()
        options = IndexOptions(factory=factory, name=name)
        done = build_index(tmp_path / "s", options, context=Context(notes))
        assert (done.added, done.index.vectors) == (ROWS - first, ROWS - 2)
        assert notes.texts == [f"adding {ROWS - first} new rows to the {first} that are in"]
        opened = open_index(grown, name)
        _, queries = opened.matrix.load()
        found = opened.vectors.search(queries, 6)[1]
        assert (found == brute_force(grown, "cosine", 6)[1]).mean() > 0.9
        if name == "flat":
            np.testing.assert_array_equal(found, brute_force(grown, "cosine", 6)[1])
    again = Notes()
    assert build_index(tmp_path / "s", IndexOptions(name="ivf"), context=Context(again)).added == 0
    assert again.texts == [f"nothing to add: all {ROWS} rows are done"]


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_rows_around_a_gap_are_added_and_the_gap_when_it_is_filled(
    tmp_path: Path, factory: str
) -> None:
    """Rows of a missing unit are no excluded rows; those behind it do not wait for it."""
    store = store_of(tmp_path / "s")
    record = tmp_path / "s/commits/set/gradients/kl/00000004.json"
    kept = record.read_bytes()
    record.unlink()
    options = IndexOptions(factory=factory)
    done = build_index(tmp_path / "s", options)
    assert (done.index.rows_done, done.index.excluded, done.missing) == (ROWS - 32, 2, 32)
    assert done.index.done == ((4, 32), (1, 0), (13, 32), (1, 24))
    notes = Notes()
    assert build_index(tmp_path / "s", options, context=Context(notes)).added == 0
    assert notes.texts == [f"nothing to add: all {ROWS - 32} rows are done"]
    found = search(tmp_path / "s", ["000001.jpg"], context=Context(notes))
    assert notes.texts[-1] == "32 samples have no features to be found by"
    record.write_bytes(kept)
    search(tmp_path / "s", ["000001.jpg"], context=Context(notes))
    assert f"the index has {ROWS - 32} of {ROWS} rows" in notes.texts[-1]
    done = build_index(tmp_path / "s", options)
    assert (done.index.vectors, done.index.excluded, done.missing) == (ROWS - 2, 2, 0)
    assert not found.is_stale
    opened = open_index(store)
    numbers, queries = opened.matrix.load()
    assert (opened.vectors.search(queries, 1)[1][:, 0] == numbers).mean() > 0.95


def test_rows_made_anew_in_the_last_unit_make_an_index_stale(tmp_path: Path) -> None:
    """A store of less than a unit: growing is allowed, searching says it, verify finds it."""
    vectors, labels = clustered(20, 2, 4)
    store = make_store(tmp_path / "s", {"embeddings": vectors[:11]}, labels[:11])
    build_index(tmp_path / "s")
    store = make_store(tmp_path / "s", {"embeddings": vectors[:14]}, labels[:14])
    assert build_index(tmp_path / "s").added == 3
    assert verify_store(tmp_path / "s").findings == ()
    changed = vectors[:14].copy()
    changed[12] *= -1
    write_block(store, "set", "embeddings", changed)
    notes = Notes()
    found = search(tmp_path / "s", ["000001.jpg"], context=Context(notes))
    assert found.is_stale
    assert "made anew" in notes.texts[-1]
    assert "--restart" in notes.texts[-1]
    (finding,) = verify_store(tmp_path / "s").findings
    assert (finding.kind, finding.severity) == ("index-stale", "error")
    with pytest.raises(MismatchError, match="made anew since"):
        build_index(tmp_path / "s")
    build_index(tmp_path / "s", restart=True)
    after = search(tmp_path / "s", ["000001.jpg"])
    assert not after.is_stale
    assert after.content != found.content
    assert verify_store(tmp_path / "s").findings == ()


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (IndexOptions(name="x", metric="euclidean"), "metric: stored 'cosine', asked 'euclidean'"),
        (IndexOptions(name="x", factory="HNSW8"), "factory: stored 'Flat', asked 'HNSW8'"),
        (IndexOptions(name="x", features=("kl",)), "features: stored"),
        (IndexOptions(name="x", seed=1), "seed: stored 42, asked 1"),
    ],
)
def test_other_settings_under_a_name_are_refused(
    tmp_path: Path, other: IndexOptions, field: str
) -> None:
    """The error names the fields, --restart and --name; --restart then builds the other index."""
    store_of(tmp_path / "s")
    build_index(tmp_path / "s", IndexOptions(name="x"))
    with pytest.raises(MismatchError) as caught:
        build_index(tmp_path / "s", other)
    assert field in str(caught.value)
    assert "--restart" in str(caught.value)
    assert "--name" in str(caught.value)
    notes = Notes()
    build_index(tmp_path / "s", other, restart=True, context=Context(notes))
    assert notes.texts[0] == "--restart: deleting indexes/set/x"
    build_index(tmp_path / "s", IndexOptions(name="x", factory="auto"))  # asks nothing


def test_features_that_changed_are_refused(tmp_path: Path) -> None:
    """An index is not searched, nor grown, once its features have other fingerprints or content."""
    store = store_of(tmp_path / "s")
    build_index(tmp_path / "s")
    kl = store.arrays("set")["gradients/kl"]
    rows = [row["id"] for row in store.samples.rows(0, 32)]
    from fungistore.fingerprint import digest_ids

    kl.publish(0, MORE[32:64].copy(), digest_ids(rows), 0)
    with pytest.raises(MismatchError, match="made anew"):
        build_index(tmp_path / "s")
    store.remove_arrays([kl])
    with pytest.raises(MismatchError, match="are gone"):
        open_index(store)
    write_block(store, "set", "gradients/kl", MORE, unit_rows=32, salt=5)
    with pytest.raises(MismatchError, match=r"fingerprints\.set/gradients/kl: index '"):
        open_index(store)
    with pytest.raises(MismatchError, match=r"fingerprints\.set/gradients/kl"):
        build_index(tmp_path / "s")


def test_a_damaged_index_is_an_error_of_the_store(tmp_path: Path) -> None:
    """A flipped bit, a missing file and a torn record are each named, with the way out."""
    store = store_of(tmp_path / "s")
    done = build_index(tmp_path / "s")
    directory = tmp_path / "s/indexes/set/embeddings+kl-cosine"
    path = directory / done.index.files["vectors"].name
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(StoreError, match="damaged"):
        open_index(store)
    path.unlink()
    with pytest.raises(StoreError, match="--restart"):
        open_index(store)
    (directory / "index.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="record"):
        open_index(store)
    shutil.rmtree(directory)
    with pytest.raises(UsageError, match="fungi index"):
        open_index(store)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (IndexOptions(features=("colour",)), ["no such feature: colour", "embeddings, kl"]),
        (IndexOptions(pca="nope"), ["no PCA 'nope'"]),
        (IndexOptions(factory="Tree9"), ["--factory Tree9", "HNSW32", "auto"]),
        (IndexOptions(factory="IVF4096,Flat"), ["cannot be trained", "--factory Flat"]),
    ],
)
def test_what_cannot_be_indexed_is_a_usage_error(
    tmp_path: Path, options: IndexOptions, words: list[str]
) -> None:
    """Unknown features, PCAs and factories, and too few rows, leave nothing behind."""
    store = store_of(tmp_path / "s")
    with pytest.raises(UsageError) as caught:
        build_index(tmp_path / "s", options)
    for word in words:
        assert word in str(caught.value)
    assert "static_cast" not in str(caught.value)  # faiss's source code
    with pytest.raises(UsageError):
        open_index(store)


def test_a_restart_that_cannot_be_built_deletes_nothing(tmp_path: Path) -> None:
    """--restart with a factory that faiss does not know leaves the old index."""
    store = store_of(tmp_path / "s")
    build_index(tmp_path / "s", IndexOptions(name="x"))
    with pytest.raises(UsageError):
        build_index(tmp_path / "s", IndexOptions(name="x", factory="Tree9"), restart=True)
    assert open_index(store, "x").vectors.count == ROWS - 2


@pytest.mark.parametrize("bad", [{"metric": "l1"}, {"name": "a/b"}, {"target_recall": 2.0}])
def test_bad_options_are_refused_when_they_are_made(bad: dict[str, object]) -> None:
    """An option that no index can have names its flag."""
    with pytest.raises(UsageError, match="--"):
        IndexOptions(**bad)  # type: ignore[arg-type]


def test_a_store_of_unusable_rows_has_nothing_to_index(tmp_path: Path) -> None:
    """All rows NaN: an error that counts them."""
    make_store(tmp_path / "s", {"embeddings": np.full((20, 4), np.nan, np.float32)}, [None] * 20)
    with pytest.raises(UsageError, match="20 rows, none of them usable"):
        build_index(tmp_path / "s")


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_few_rows_are_an_index_too(tmp_path: Path, rows: int) -> None:
    """Fewer rows than the recall's k: whatever there is, is found."""
    store = make_store(tmp_path / "s", {"embeddings": VECTORS[:rows]}, LABELS[:rows])
    for factory in ("Flat", "HNSW8"):
        build_index(tmp_path / "s", IndexOptions(factory=factory, name=factory))
        found = open_index(store, factory).vectors.search(VECTORS[:1], rows)[1]
        assert sorted(found[0].tolist()) == list(range(rows))


def test_a_higher_target_makes_searches_look_longer(tmp_path: Path) -> None:
    """Another --target-recall settles the effort anew, without building anew."""
    random = np.random.default_rng(0).normal(size=(ROWS, 24)).astype(np.float32)
    make_store(tmp_path / "s", {"embeddings": random}, LABELS)
    low = build_index(
        tmp_path / "s",
        IndexOptions(
            features=("embeddings",),
            factory="IVF16,Flat",
            target_recall=0.3,
        ),
    )
    high = build_index(tmp_path / "s", IndexOptions(target_recall=0.99))
    assert high.added == 0
    assert low.index.recall is not None
    assert high.index.recall is not None
    assert high.index.effort["nprobe"] > low.index.effort["nprobe"]
    assert high.index.recall.value >= 0.99 > low.index.recall.value >= 0.3
    assert high.index.files == low.index.files


@pytest.mark.parametrize(
    ("count", "dim", "memory", "start"),
    [
        (100_000, 768, 16 * GB, "Flat"),
        (1_000_000, 768, 64 * GB, "HNSW32"),
        (1_000_000, 768, 8 * GB, "IVF2048,Flat"),
        (1_000_000, 768, 4 * GB, "OPQ96_768,IVF2048,PQ96"),
        (100_000_000, 768, 64 * GB, "OPQ96_768,IVF8192,PQ96"),
        (5_000_000, 64, 64 * GB, "IVF8192,Flat"),
        (5_000_000, 383, 1 * GB, "OPQ47_376,IVF8192,PQ47"),
        (5_000_000, 3072, 8 * GB, "IVF1024,PQ128"),
    ],
)
def test_the_automatic_choice(count: int, dim: int, memory: int, start: str) -> None:
    """Flat, graph, lists, quantised lists, as rows grow and memory shrinks; faiss takes all."""
    choice = choose_factory(count, dim, memory)
    assert choice.factory == start
    assert f"{count:,} x {dim}" in choice.reason
    assert VectorIndex.make(choice.factory, dim, "cosine").count == 0


@pytest.mark.parametrize("dim", [1, 2, 7, 31, 383, 768, 2049, 4099])
def test_quantised_parts_fit_any_width(dim: int) -> None:
    """faiss takes the chosen quantiser at any width, prime ones included."""
    assert 1 <= part_count(dim) <= 128
    VectorIndex.make(choose_factory(10**9, dim, GB).factory, dim, "euclidean")
    assert 4 * dim * training_rows(10**9, dim) <= max(TRAIN_BYTES[1], 4 * dim * 256 * 39)


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    """What is stored, and what --json prints, is finite JSON that names its inputs."""
    store = store_of(tmp_path / "s")
    done = build_index(tmp_path / "s", IndexOptions(factory="IVF4,Flat"))
    document = json.loads(canonical_json(done.to_json()))
    assert document["fingerprints"] == open_features(store).fingerprints
    assert document["recall"]["k"] == 10
    assert (
        faiss.read_index(
            str(
                tmp_path
                / "s/indexes/set/embeddings+kl-cosine"
                / document["files"]["vectors"]["name"]
            )
        ).ntotal
        == document["vectors"]
    )


def test_a_restart_removes_the_record_before_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two leaves no index, and not one whose files are gone."""
    vectors, labels = clustered(64, 2, 8)
    make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    build_index(tmp_path / "s.fungi", IndexOptions(name="exact"))
    removed: list[str] = []
    remove = LocalBackend.remove

    def watched(backend: LocalBackend, key: str) -> None:
        removed.append(key)
        remove(backend, key)

    monkeypatch.setattr(LocalBackend, "remove", watched)
    build_index(tmp_path / "s.fungi", IndexOptions(name="exact"), restart=True)
    assert removed[:2] == ["indexes/set/exact/index.json", "indexes/set/exact"]
