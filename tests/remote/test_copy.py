"""A copy has the same bits, is known to be half, continues from any point, and is compared."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from counting import CountingBucket, objects
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import ListSource, add_source, clustered, make_store, write_block
from fungistore.choices import Codec
from fungistore.copying.options import CopyOptions
from fungistore.copying.stage import copy_store
from fungistore.errors import FungiError, MismatchError, StoreError, UsageError
from fungistore.evaluation.knn import KnnOptions, evaluate_knn
from fungistore.machine.context import QUIET
from fungistore.sources.sample import Sample
from fungistore.store.object_claims import ObjectClaims
from fungistore.store.objects import ObjectBackend
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.verify import verify_store

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS = 70


class Killed(BaseException):
    """A process that ends here."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    vectors, labels = clustered(ROWS, 3, 6)
    splits = ["test" if i % 3 == 0 else "train" for i in range(ROWS)]
    made = make_store(
        tmp_path / "s.fungi", {"embeddings": vectors, "gradients/kl": vectors * 2}, labels, splits
    )
    evaluate_knn(made, KnnOptions(k=3, features=("embeddings",))).save(QUIET)
    evaluate_knn(made, KnnOptions(k=3, features=("kl",))).save(QUIET)
    return made


def files(root: Path) -> dict[str, bytes]:
    """Return what a store's directory holds but locks."""
    paths = (path for path in root.rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    return {key: data for key, data in found.items() if not key.startswith(".locks")}


def in_memory() -> tuple[ObjectBackend, CountingBucket]:
    bucket = CountingBucket()
    return ObjectBackend(bucket, ObjectClaims(bucket)), bucket


def visible(bucket: CountingBucket) -> dict[str, bytes]:
    """Return a bucket's objects but those that are caches."""
    return {key: data for key, data in objects(bucket).items() if not key.endswith(".records")}


def test_up_across_and_down_again(store: Store, tmp_path: Path) -> None:
    """A store that went to a URL, to another and back is the same, file by file."""
    one, bucket = in_memory()
    other, _ = in_memory()
    up = copy_store(store, one, context=QUIET)
    assert up.units == {"total": 10, "copied": 10}
    assert visible(bucket) == files(store.root)
    assert verify_store(Store.open(one)).is_sound
    copy_store(one, other, context=QUIET)
    copy_store(other, tmp_path / "back.fungi", context=QUIET)
    assert files(tmp_path / "back.fungi") == files(store.root)
    assert verify_store(tmp_path / "back.fungi").is_sound
    again = copy_store(store, one, context=QUIET)
    assert (again.units["copied"], again.files, again.bytes) == (0, 0, 0)


def test_a_copy_that_is_killed_at_any_object_continues(store: Store) -> None:
    """Before each put in turn: no store is there, and the next copy makes it the same."""
    expected = files(store.root)
    puts = 0
    while True:
        backend, bucket = in_memory()
        left = [puts]

        def before(kind: str, key: str, left: list[int] = left) -> None:
            if kind == "put" and ".locks" not in key:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1

        bucket.before = before
        try:
            copy_store(store, backend, context=QUIET)
        except Killed:
            bucket.before = lambda kind, key: None
            if "copy.json" in visible(bucket):
                assert not verify_store(backend).is_sound
                for look in (status, Store.open, Store.open_or_create):
                    with pytest.raises(StoreError, match="a copy that has not ended"):
                        look(backend)
            copy_store(store, backend, context=QUIET)
            assert visible(bucket) == expected
            puts += 3 if puts > 8 else 1
        else:
            break
    assert puts > 25


def test_nothing_is_whole_before_its_chunks(store: Store) -> None:
    """At each put of a record its chunk is there; store.json comes when all else is."""
    backend, bucket = in_memory()
    seen: list[str] = []
    bucket.before = lambda kind, key: seen.append(key) if kind == "put" else None
    copy_store(store, backend, context=QUIET)
    seen = [key for key in seen if ".locks" not in key]
    assert (seen[0], seen[-1]) == ("copy.json", "store.json")
    for key in seen:
        if key.startswith("commits/"):
            unit = int(key.rpartition("/")[2].removesuffix(".json"))
            array = key.removeprefix("commits/").rpartition("/")[0]
            assert seen.index(f"features.zarr/{array}/c/{unit}/0") < seen.index(key)


def test_a_grown_store_is_copied_onto_its_copy(store: Store, tmp_path: Path) -> None:
    """Only what is new is sent: the last unit, which was completed, and those after it."""
    target = tmp_path / "copy.fungi"
    shutil.copytree(store.root, tmp_path / "early.fungi")
    copy_store(tmp_path / "early.fungi", target, context=QUIET)
    vectors = np.random.default_rng(5).normal(size=(ROWS, 6)).astype(np.float32)
    write_block(store, "set", "gradients/dino", vectors)
    done = copy_store(store, target, context=QUIET)
    assert done.units == {"total": 15, "copied": 5}
    assert files(target) == files(store.root)


def test_a_store_is_copied_neither_onto_nor_into_itself(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the place is spelled; inside, the copy would be a feature set of the store."""
    (tmp_path / "link.fungi").symlink_to(store.root)
    monkeypatch.chdir(tmp_path)
    before = files(store.root)
    onto = ("s.fungi", f"{tmp_path}/./s.fungi", "link.fungi", f"../{tmp_path.name}/s.fungi")
    for place in (*onto, "s.fungi/in.fungi", "link.fungi/features.zarr/in.fungi"):
        for dry_run in (True, False):
            with pytest.raises(UsageError, match="itself"):
                copy_store(store, place, dry_run=dry_run, context=QUIET)
    assert files(store.root) == before
    copy_store(store, "memory://copied/s.fungi", context=QUIET)
    with pytest.raises(UsageError, match="into itself"):
        copy_store("memory://copied/s.fungi", "memory://copied/s.fungi/in.fungi", context=QUIET)
    copy_store("memory://copied/s.fungi", "memory://copied/s.fungi2", context=QUIET)


def test_a_full_disk_is_told_and_the_copy_goes_on(tmp_path: Path) -> None:
    """What does not fit is an error with a place; then the same copy ends what was begun."""
    vectors, labels = clustered(ROWS, 3, 1024)  # chunks of 64 kB, and nothing else as large
    store = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    target = tmp_path / "copy.fungi"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limit[1]))
    try:
        with pytest.raises(FungiError, match="cannot be read or written") as raised:
            copy_store(store, target, context=QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert str(target) in str(raised.value.where)
    assert "a copy goes on there" in str(raised.value.hint)
    with pytest.raises(StoreError, match="a copy that has not ended"):
        Store.open(target)
    copy_store(store, target, context=QUIET)
    assert files(target) == files(store.root)


def grown(root: Path, ids: Sequence[str], feature_set: str) -> Store:
    """Append samples to a store, and write vectors of all its rows into a feature set."""
    store = Store.open(root)
    rows = [f"{row:06d}.jpg" for row in range(ROWS)]
    samples = [Sample(name, name, "class 0", None) for name in (*rows, *ids)]
    add_source(store, ListSource(samples))
    vectors = np.random.default_rng(len(feature_set)).normal(size=(len(samples), 6))
    write_block(store, feature_set, "embeddings", vectors.astype(np.float32))
    return Store.open(root)


@pytest.mark.parametrize("overwrite", [False, True])
def test_both_grown_by_other_samples_is_refused(
    store: Store, tmp_path: Path, overwrite: bool
) -> None:
    """As many rows of one root, of other files: what only the copy has would be misnamed."""
    target = tmp_path / "copy.fungi"
    copy_store(store, target, context=QUIET)
    mine = grown(store.root, ["x1.jpg", "x2.jpg"], "set")
    grown(target, ["y1.jpg", "y2.jpg"], "other")
    before = files(target)
    for dry_run in (True, False):
        with pytest.raises(MismatchError, match="other samples") as raised:
            copy_store(mine, target, overwrite=overwrite, dry_run=dry_run, context=QUIET)
        assert "samples.parquet" in str(raised.value.where)
    assert files(target) == before


def test_corrected_labels_are_copied_and_are_no_other_samples(store: Store, tmp_path: Path) -> None:
    """The ids are the same, though the table's files are not."""
    target = tmp_path / "copy.fungi"
    copy_store(store, target, context=QUIET)
    mine = grown(store.root, [], "other")  # whose labels are all one by now
    copy_store(mine, target, context=QUIET)
    assert Store.open(target).samples.labels().tolist() == mine.samples.labels().tolist()
    assert len(set(mine.samples.labels().tolist())) == 1
    assert verify_store(target).is_sound


def test_other_stores_are_refused_with_both_ids(store: Store, tmp_path: Path) -> None:
    """Neither a whole copy of another store nor a half one is written over."""
    vectors, labels = clustered(20, 2, 4)
    other = make_store(tmp_path / "other.fungi", {"embeddings": vectors}, labels)
    whole, _ = in_memory()
    copy_store(other, whole, context=QUIET)
    half, bucket = in_memory()
    bucket.put("copy.json", json.dumps({"store": other.manifest.id}).encode())
    for target in (other.root, whole, half):
        with pytest.raises(MismatchError) as caught:
            copy_store(store, target, context=QUIET)
        assert store.manifest.id in str(caught.value)
        assert other.manifest.id in str(caught.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="taken by something else"):
        copy_store(store, tmp_path / "full", context=QUIET)
    with pytest.raises(UsageError, match="onto itself"):
        copy_store(store, store.root, context=QUIET)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("place", [0.1, 0.99])
def test_a_damaged_chunk_is_not_copied(tmp_path: Path, codec: Codec, place: float) -> None:
    """A byte that changed is found before it is sent, whatever the codec."""
    vectors, labels = clustered(ROWS, 3, 6)
    made = make_store(tmp_path / "d.fungi", {"embeddings": vectors}, labels)
    if codec != "none":
        first = made.arrays("set")["embeddings"]
        made.remove_arrays([first])
        UnitArray.create(
            made.backend,
            "set/embeddings",
            shape=vectors.shape,
            dtype="float32",
            unit_rows=16,
            codec=codec,
            fingerprint=first.fingerprint,
        )
        write_block(made, "set", "embeddings", vectors)
    path = made.root / "features.zarr/set/embeddings/c/2/0"
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    backend, bucket = in_memory()
    with pytest.raises(StoreError, match="does not match its record"):
        copy_store(made, backend, context=QUIET)
    assert "store.json" not in objects(bucket)
    copied = [key for key in objects(bucket) if key.startswith("commits/")]
    assert "commits/set/embeddings/00000002.json" not in copied


def test_what_arrives_otherwise_is_noticed(store: Store) -> None:
    """A server that stores something else than it was sent gets no record for it."""
    backend, bucket = in_memory()

    def before(kind: str, key: str) -> None:
        if kind == "get" and "/c/1/0" in key:
            CountingBucket.__bases__[0].put(bucket, key, b"something else")

    bucket.before = before
    with pytest.raises(StoreError, match="did not arrive"):
        copy_store(store, backend, context=QUIET)
    assert not any("00000001.json" in key for key in objects(bucket))


def test_some_features_with_what_belongs_to_them(store: Store, tmp_path: Path) -> None:
    """Of one feature its array, setup and evaluations are copied, and the rest is not."""
    target = tmp_path / "some.fungi"
    done = copy_store(store, target, CopyOptions(features=("kl",)), context=QUIET)
    assert done.arrays == ("set/gradients/kl",)
    copied = files(target)
    assert not any("embeddings" in key for key in copied)
    evals = [json.loads(data) for key, data in copied.items() if key.startswith("evals/")]
    assert [one["scores"][0]["features"] for one in evals] == [["kl"]]
    assert verify_store(target).is_sound
    copy_store(store, target, context=QUIET)
    assert files(target) == files(store.root)
    with pytest.raises(UsageError, match="no such feature: nonsense"):
        copy_store(store, target, CopyOptions(features=("nonsense",)), context=QUIET)


def test_rows_that_differ_are_replaced_only_when_asked(store: Store) -> None:
    """Rows that were made anew on one side are refused; --overwrite takes the store's."""
    backend, bucket = in_memory()
    copy_store(store, backend, context=QUIET)
    array = store.arrays("set")["embeddings"]
    before = array.commit(1)
    assert before is not None
    array.publish(1, np.full((16, 6), 3, np.float32), before.ids, 0)
    with pytest.raises(MismatchError, match="other rows of unit 1") as caught:
        copy_store(store, backend, context=QUIET)
    assert "--overwrite" in str(caught.value)
    copy_store(store, backend, overwrite=True, context=QUIET)
    assert visible(bucket) == files(store.root)


def test_a_store_that_is_written_is_copied_up_to_its_records(store: Store) -> None:
    """Units under way are left out; other things that are being written are waited for."""
    backend, bucket = in_memory()
    store.arrays("set")["embeddings"].forget(2)
    with store.writing("features/set/embeddings"):
        done = copy_store(store, backend, context=QUIET)
    assert done.units["total"] == 9
    assert "commits/set/embeddings/00000002.json" not in objects(bucket)
    with store.writing("indexes/set/main"), pytest.raises(FungiError, match="writing indexes"):
        copy_store(store, backend, context=QUIET)
    with Store.open(backend).writing(), pytest.raises(FungiError, match="another process"):
        copy_store(store, backend, context=QUIET)


def test_the_command(store: Store, tmp_path: Path) -> None:
    """A dry run writes nothing; --json is one object; a half copy names the command."""
    target = str(tmp_path / "c.fungi")
    runner = CliRunner()
    dry = runner.invoke(app, ["copy", str(store.root), target, "--dry-run", "--json"])
    assert (dry.exit_code, json.loads(dry.stdout)["units"]["copied"]) == (0, 10)
    assert not Path(target).exists()
    done = runner.invoke(app, ["copy", str(store.root), target, "--json"])
    said = json.loads(done.stdout)
    assert (said["id"], said["bytes"] > 0) == (store.manifest.id, True)
    assert "next: fungi verify" in done.stderr
    Path(target, "store.json").rename(tmp_path / "kept")
    Path(target, "copy.json").write_text(json.dumps({"store": said["id"], "source": "x y"}))
    half = runner.invoke(app, ["status", target])
    assert half.exit_code == 5
    assert f"fungi copy 'x y' {target}" in half.stderr
