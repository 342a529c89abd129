"""The sample table: a row, once given to an id, is that id's row for ever."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from list_source import ListSource, numbered

from fungistore.errors import UsageError
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Sample
from fungistore.store import differences as differences_module
from fungistore.store import samples as samples_module
from fungistore.store import spool as spool_module
from fungistore.store.durable import partial_path
from fungistore.store.listing import SourceChanges, add_source
from fungistore.store.removed import read_removed
from fungistore.store.samples import ROWS_PER_GROUP
from fungistore.store.store import Store

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHARED_TMP_PATH = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
AWKWARD_IDS = [
    "",
    " ",
    "a\nb.jpg",
    "a\r\n.jpg",
    "tab\t.jpg",
    "nul\0.jpg",
    "\"quoted\", 'twice'.jpg",
    "back\\slash.jpg",
    "comma,semicolon;.jpg",
    "café.jpg",  # e with an accent
    "cafe\u0301.jpg",  # e and an accent: another id
    "日本語/写真.jpg",
    "\U0001f344.jpg",
    "\u202eright-to-left.jpg",
    "../up.jpg",
]

ids = st.one_of(st.text(max_size=12), st.sampled_from(AWKWARD_IDS))
values = st.builds(
    Sample,
    id=ids,
    uri=st.text(max_size=8),
    label=st.sampled_from([None, "cat", "dog", "2", "10", "étoile", "", "a\nb"]),
    split=st.sampled_from([None, "train", "val", "test", "hold out"]),
    bytes=st.none() | st.integers(0, 2**63 - 1),
    mtime=st.none() | st.floats(-1e9, 4e9),
)


def as_row(row: int, sample: Sample, labels: Sequence[str], root: str) -> dict[str, Any]:
    """Return what the table should say of a sample."""
    micro = None if sample.mtime is None else round(sample.mtime * 1_000_000)
    return {
        "row": row,
        "id": sample.id,
        "uri": sample.uri,
        "label": None if sample.label is None else labels.index(sample.label),
        "split": sample.split,
        "bytes": sample.bytes,
        "mtime": None if micro is None else EPOCH + timedelta(microseconds=micro),
        "root": root,
    }


def ids_of(store: Store) -> list[str]:
    return [row["id"] for row in store.samples.rows(0, len(store.samples))]


def new_store(root: Path) -> Store:
    return Store.open_or_create(root / "s.fungi")


# --- any history of sources

# What a run gives: new samples, which known ones are listed again, how they are shuffled.
sources = st.tuples(
    st.lists(values, max_size=11), st.sets(st.integers(0, 30)), st.randoms(use_true_random=False)
)
ranges = st.tuples(st.integers(-3, 40), st.integers(-1, 20)).map(lambda r: (r[0], r[0] + r[1]))


@settings(SHARED_TMP_PATH, max_examples=30)
@given(history=st.lists(sources, min_size=1, max_size=4), asked=st.lists(ranges, max_size=12))
def test_any_history_of_sources_matches_a_plain_list(
    tmp_path: Path, history: list[tuple[list[Sample], set[int], Any]], asked: list[tuple[int, int]]
) -> None:
    """Known ids keep their rows, new ones follow, none is there twice, any range is the list's."""
    model: list[Sample] = []
    labels: list[str] = []
    lost: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples_module, "ROWS_PER_GROUP", 4)  # a few samples fill several groups
        patch.setattr(differences_module, "ROWS_PER_GROUP", 4)
        patch.setattr(spool_module, "WINDOW_ROWS", 3)
        store = Store.open_or_create(Path(tempfile.mkdtemp(dir=tmp_path)))
        for fresh, again, order in history:
            known = {sample.id: sample for sample in model}
            listed = {model[i].id: model[i] for i in again if i < len(model)}
            listed |= {sample.id: sample for sample in fresh}  # some of them known, but changed
            shuffled = list(listed.values())
            order.shuffle(shuffled)
            source = ListSource("/i", shuffled)
            old = [sample for sample in shuffled if sample.id in known]
            changed = sum(_stamp(sample) != _stamp(known[sample.id]) for sample in old)
            gone = {
                sample.id
                for sample in old
                if sample.bytes is None and known[sample.id].bytes is not None
            }
            changed -= len(gone)
            there = {sample.id for sample in old} - gone
            removed = [sample.id for sample in model if sample.id not in there]
            if len(gone) == len(shuffled):  # nothing of it is there: a disk that is not mounted
                removed = []
            else:
                lost = (lost - there) | set(removed)
            counts = (len(shuffled) - len(old), len(old), changed, len(removed))
            said = {
                name: any(getattr(sample, name) is not None for sample in shuffled)
                for name in ("label", "split")
            }
            other = {
                name: {s.id for s in old if getattr(s, name) != getattr(known[s.id], name)}
                if said[name]
                else set()
                for name in said
            }
            expected = SourceChanges(
                *counts,
                first_removed=tuple(removed[:3]),
                labels=len(other["label"]),
                splits=len(other["split"]),
            )
            assert add_source(store, source) == expected
            labels += [name for name in source.label_names() if name not in labels]
            model = [
                replace(
                    sample,
                    label=listed[sample.id].label if sample.id in other["label"] else sample.label,
                    split=listed[sample.id].split if sample.id in other["split"] else sample.split,
                )
                for sample in model
            ]
            model += [sample for sample in shuffled if sample.id not in known]
            some = [order.randrange(len(model)) for _ in range(9)] if model else []
            for table in (store.samples, Store.open(store.root).samples):
                assert len(table) == len(model)
                assert table.take(some) == [as_row(n, model[n], labels, "/i") for n in some]
                for start, stop in [(0, len(model)), *asked]:
                    assert table.rows(start, stop) == [
                        as_row(row, sample, labels, "/i")
                        for row, sample in enumerate(model)
                        if start <= row < stop
                    ]
            assert list(Store.open(store.root).manifest.labels) == labels
            assert {model[row].id for row in read_removed(store.folder())} == lost


def _stamp(sample: Sample) -> tuple[int | None, int | None]:
    return sample.bytes, None if sample.mtime is None else round(sample.mtime * 1_000_000)


def test_rows_across_real_parts_and_row_groups(tmp_path: Path) -> None:
    """Ranges are right at every border of row groups and parts of full size."""
    store = new_store(tmp_path)
    first = ROWS_PER_GROUP + 100
    total = first + ROWS_PER_GROUP + 5
    assert add_source(store, numbered(first)) == SourceChanges(first, 0, 0)
    assert add_source(store, numbered(total)) == SourceChanges(total - first, first, 0)
    borders = [0, ROWS_PER_GROUP, first, first + ROWS_PER_GROUP, total]
    expected = numbered(total).samples
    labels = store.manifest.labels
    for border in borders:
        start, stop = max(0, border - 2), min(total, border + 2)
        rows = store.samples.rows(start, stop)
        assert rows == [as_row(n, expected[n], labels, "/images") for n in range(start, stop)]
    rows = store.samples.rows(ROWS_PER_GROUP - 1, first + ROWS_PER_GROUP + 1)
    assert [row["row"] for row in rows] == list(
        range(ROWS_PER_GROUP - 1, first + ROWS_PER_GROUP + 1)
    )
    assert store.samples.rows(total, total + 10) == []


@pytest.mark.parametrize("count", [1, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, ROWS_PER_GROUP + 1])
def test_sources_at_the_size_of_a_row_group(tmp_path: Path, count: int) -> None:
    """No sample is lost where a row group is just full."""
    store = new_store(tmp_path)
    assert add_source(store, numbered(count)).added == len(store.samples) == count
    assert store.samples.rows(count - 1, count)[0]["id"] == f"{count - 1:08d}.jpg"
    assert add_source(store, numbered(count)) == SourceChanges(0, count, 0)


# --- growing


def test_new_samples_follow_whatever_order_the_source_has(tmp_path: Path) -> None:
    """A sample that sorts before the known ones still gets the next row."""
    store = new_store(tmp_path)
    add_source(store, numbered(5, start=10))
    add_source(store, numbered(20))
    expected = [*range(10, 15), *range(10), *range(15, 20)]
    assert ids_of(store) == [f"{n:08d}.jpg" for n in expected]


def test_a_source_that_lost_samples_loses_no_rows(tmp_path: Path) -> None:
    """Rows of images that are gone stay, features may be of them; their first ids are told."""
    store = new_store(tmp_path)
    add_source(store, numbered(10))
    gone = ("00000003.jpg", "00000004.jpg", "00000005.jpg")
    assert add_source(store, numbered(3)) == SourceChanges(0, 3, 0, 7, gone)
    assert read_removed(store.folder()).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert len(store.samples) == 10
    assert add_source(store, numbered(9)) == SourceChanges(0, 9, 0, 1, ("00000009.jpg",))
    assert read_removed(store.folder()).tolist() == [9]
    assert add_source(store, numbered(10)) == SourceChanges(0, 10, 0)
    assert not len(read_removed(store.folder()))
    assert "removed.parquet" not in contents(store.root)


def test_only_its_own_source_knows_that_a_sample_is_gone(tmp_path: Path) -> None:
    """Not another with its root, nor one that may be a part, nor an empty folder of no disk."""
    store = new_store(tmp_path)
    first = numbered(10)
    add_source(store, first)
    part = ListSource("/images", first.samples[:2], origin="")
    other = ListSource("/images", [replace(s, bytes=None) for s in first.samples[:2]], "other")
    assert add_source(store, part) == SourceChanges(0, 2, 0)
    assert add_source(store, ListSource("/images", [])) == SourceChanges(0, 0, 0)
    assert add_source(store, other) == SourceChanges(0, 2, 0)  # nothing of it is there
    assert add_source(store, replace(numbered(3), root="/other")).removed == 0
    assert not len(read_removed(store.folder()))


def test_a_listed_sample_without_its_file_is_gone(tmp_path: Path) -> None:
    """A manifest may list it still; its row comes back with its file."""
    store = new_store(tmp_path)
    samples = numbered(4).samples
    add_source(store, numbered(4))
    lost = [*samples[:3], replace(samples[3], bytes=None, mtime=None)]
    names = ("00000003.jpg",)
    assert add_source(store, ListSource("/images", lost)) == SourceChanges(0, 4, 0, 1, names)
    assert read_removed(store.folder()).tolist() == [3]
    assert add_source(store, numbered(4)) == SourceChanges(0, 4, 0)
    assert not len(read_removed(store.folder()))


def test_a_file_that_no_source_has_any_more_is_gone(tmp_path: Path) -> None:
    """Where a shorter list of another name took the place of the first one."""
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    (tmp_path / "v1.csv").write_text("path\na.jpg\nb.jpg\nc.jpg\n")
    (tmp_path / "v2.csv").write_text("path\na.jpg\n")
    (tmp_path / "b.jpg").unlink()
    store = new_store(tmp_path)
    add_source(store, open_source(tmp_path / "v1.csv"))
    (tmp_path / "c.jpg").unlink()
    changes = add_source(store, open_source(tmp_path / "v2.csv"))
    assert (changes.removed, changes.first_removed, changes.unlisted) == (1, ("c.jpg",), 1)
    assert read_removed(store.folder()).tolist() == [
        2
    ]  # b.jpg never was there: it is a failed input


def test_samples_that_go_from_one_list_to_another_are_not_gone(tmp_path: Path) -> None:
    """Lists for training and testing that are drawn anew have every image still, in any order."""
    store, every, root = new_store(tmp_path), numbered(12).samples, str(tmp_path)
    for sample in every:
        (tmp_path / sample.uri).touch()
    train, test = ListSource(root, every[:8], "train"), ListSource(root, every[8:], "test")
    for source in (train, test):
        add_source(store, source)
    train = replace(train, samples=[*every[:6], *every[8:10]])
    test = replace(test, samples=[*every[6:8], *every[10:]])
    for source in (train, test, train, test, test, train):
        add_source(store, source)
    assert not len(read_removed(store.folder()))


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    """The same source again leaves every file as it was."""
    store = new_store(tmp_path)
    add_source(store, numbered(10))
    before = contents(store.root)
    assert add_source(store, numbered(10)) == SourceChanges(0, 10, 0)
    assert contents(store.root) == before


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_changed_size_or_time_is_counted_and_the_row_kept(tmp_path: Path) -> None:
    """A known image with another size or time is reported; the table keeps what it had."""
    store = new_store(tmp_path)
    add_source(
        store, ListSource("/i", [Sample(name, name, bytes=5, mtime=100.0) for name in "abcde"])
    )
    before = store.samples.rows(0, 5)
    again = [
        Sample("a", "a", bytes=5, mtime=100.0),
        Sample("b", "b", bytes=6, mtime=100.0),
        Sample("c", "c", bytes=5, mtime=100.000001),
        Sample("d", "d", bytes=None, mtime=None),
        Sample("e", "elsewhere", bytes=5, mtime=100.0000001),  # below a microsecond
    ]
    assert add_source(store, ListSource("/i", again)) == SourceChanges(0, 5, 2, 1, ("d",))
    assert store.samples.rows(0, 5) == before


# --- duplicates


@pytest.mark.parametrize("count", [3, ROWS_PER_GROUP + 10], ids=["one group", "two groups"])
def test_duplicates_are_refused_by_name(tmp_path: Path, count: int) -> None:
    """An id that occurs twice stops the run, is named, and leaves nothing behind."""
    store = new_store(tmp_path)
    before = contents(store.root)
    source = numbered(count)
    twice = [source.samples[-1], source.samples[0]]
    with pytest.raises(UsageError, match="2 sample ids occur more than once") as caught:
        add_source(store, ListSource("/i", [*source.samples, *twice]))
    assert caught.value.exit_code == 2
    assert all(repr(sample.id) in str(caught.value) for sample in twice)
    assert repr(source.samples[1].id) not in str(caught.value)
    assert contents(store.root) == before
    assert len(Store.open(store.root).samples) == 0
    assert add_source(store, source).added == count


def test_duplicates_beside_known_samples_leave_the_store_as_it_was(tmp_path: Path) -> None:
    """A refused source changes nothing of a store that has samples, labels included."""
    store = new_store(tmp_path)
    add_source(store, numbered(5))
    before = contents(store.root)
    twice = [Sample("new", "new", "zebra")] * 2
    with pytest.raises(UsageError, match="'new'"):
        add_source(store, ListSource("/i", [*numbered(5).samples, *twice]))
    assert contents(store.root) == before
    assert Store.open(store.root).manifest == store.manifest


def test_duplicates_of_a_known_sample_are_refused_too(tmp_path: Path) -> None:
    """A manifest that repeats a known id, for another image even, is as wrong as a new one."""
    store = new_store(tmp_path)
    add_source(store, ListSource("/i", [Sample("a", "a.jpg")]))
    with pytest.raises(UsageError, match="'a'"):
        add_source(store, ListSource("/i", [Sample("a", "a.jpg"), Sample("a", "other.jpg")]))


def test_many_duplicates_are_counted_and_a_few_named(tmp_path: Path) -> None:
    """The message stays short however many ids are repeated, and says how many there are."""
    samples = numbered(50).samples
    with pytest.raises(UsageError, match="50 sample ids") as caught:
        add_source(new_store(tmp_path), ListSource("/i", samples + samples))
    assert "00000000.jpg" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_source_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """An error while the source is listed, such as a folder without permission, adds no part."""

    class Failing(ListSource):
        def __iter__(self) -> Any:
            yield from self.samples
            raise OSError("the network is gone")

    store = new_store(tmp_path)
    before = contents(store.root)
    with pytest.raises(OSError, match="network"):
        add_source(store, Failing("/i", numbered(ROWS_PER_GROUP + 5).samples))
    assert contents(store.root) == before
    assert len(store.samples) == 0


# --- labels


def test_labels_are_frozen_at_first_sight(tmp_path: Path) -> None:
    """Known labels keep their integers; later ones follow, sorted among themselves."""

    def labelled(*names: str) -> ListSource:
        return ListSource("/i", [Sample(name, name, name) for name in names])

    store = new_store(tmp_path)
    add_source(store, labelled("dog", "cat"))
    assert list(store.manifest.labels) == ["cat", "dog"]
    add_source(store, labelled("zebra", "dog", "ant", "cat"))
    assert list(store.manifest.labels) == ["cat", "dog", "ant", "zebra"]
    add_source(store, labelled("bee"))
    again = Store.open(store.root)
    assert list(again.manifest.labels) == ["cat", "dog", "ant", "zebra", "bee"]
    rows = again.samples.rows(0, len(again.samples))
    assert all(again.manifest.labels[row["label"]] == row["id"] for row in rows)


def test_a_sample_without_label_has_none(tmp_path: Path) -> None:
    """No label is null, not an integer, and the empty word is a label of its own."""
    store = new_store(tmp_path)
    add_source(store, ListSource("/i", [Sample("a", "a"), Sample("b", "b", ""), Sample("c", "c")]))
    assert [row["label"] for row in store.samples.rows(0, 3)] == [None, 0, None]
    assert store.manifest.labels == ("",)


def test_classes_without_images_keep_their_integer(tmp_path: Path) -> None:
    """A class that the source names is counted even before it has an image."""

    class WithEmptyClass(ListSource):
        def label_names(self) -> list[str]:
            return ["ant", *super().label_names()]

    store = new_store(tmp_path)
    add_source(store, WithEmptyClass("/i", [Sample("b", "b", "bee")]))
    assert store.manifest.labels == ("ant", "bee")
    assert store.samples.rows(0, 1)[0]["label"] == 1


# --- roots


def test_a_moved_source_is_read_from_where_it_is_now(tmp_path: Path) -> None:
    """Where the old root is gone, known rows get the new one; no row moves."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "00000000.jpg").touch()
    store = new_store(tmp_path)
    add_source(store, numbered(4, root=str(old)))
    old.rename(new)
    assert add_source(store, numbered(6, root=str(new))) == SourceChanges(2, 4, 0)
    assert {row["root"] for row in Store.open(store.root).samples.rows(0, 6)} == {str(new)}
    assert ids_of(store) == [f"{n:08d}.jpg" for n in range(6)]


def test_a_moved_source_may_have_lost_its_first_samples(tmp_path: Path) -> None:
    """Those that are there tell that it has moved, and so the others are known to be gone."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "00000002.jpg").touch()
    store = new_store(tmp_path)
    add_source(store, numbered(4, root=str(old)))
    old.rename(new)
    changes = add_source(store, numbered(2, start=2, root=str(new)))
    assert (changes.known, changes.removed) == (2, 2)
    assert {row["root"] for row in store.samples.rows(0, 4)} == {str(new)}


def test_a_root_that_still_exists_is_kept(tmp_path: Path) -> None:
    """A second copy of the images does not take over the rows of the first."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    store = new_store(tmp_path)
    add_source(store, numbered(4, root=str(old)))
    add_source(store, numbered(6, root=str(new)))
    roots = [row["root"] for row in Store.open(store.root).samples.rows(0, 6)]
    assert roots == [str(old)] * 4 + [str(new)] * 2


def test_another_source_takes_over_no_root(tmp_path: Path) -> None:
    """A source without a known sample leaves the others' roots alone, even if they are gone."""
    store = new_store(tmp_path)
    add_source(store, numbered(2, root="/gone"))
    add_source(store, numbered(2, start=2, root=str(tmp_path)))
    assert [row["root"] for row in store.samples.rows(0, 4)] == ["/gone"] * 2 + [str(tmp_path)] * 2


def test_a_source_takes_over_only_roots_of_its_own_samples(tmp_path: Path) -> None:
    """Images of an unplugged disk are not looked for in a source that never had them."""
    here = tmp_path / "here"
    here.mkdir()
    store = new_store(tmp_path)
    add_source(store, numbered(2, root="/unplugged"))
    add_source(store, numbered(2, start=2, root=str(here)))
    add_source(store, numbered(3, start=2, root=str(here)))
    assert [row["root"] for row in store.samples.rows(0, 2)] == ["/unplugged"] * 2


# --- what an id may be


def test_awkward_ids_round_trip(tmp_path: Path) -> None:
    """Unicode, 100,000 characters, new lines, quotes, NUL: an id is any text, compared exactly."""
    texts = [*AWKWARD_IDS, "long/" + "x" * 100_000 + ".jpg"]
    samples = [Sample(text, text, label=text, split=text) for text in texts]
    store = new_store(tmp_path)
    add_source(store, ListSource("/i", samples))
    store = Store.open(store.root)
    rows = store.samples.rows(0, len(samples))
    assert [row["id"] for row in rows] == texts
    assert [row["uri"] for row in rows] == texts
    assert [row["split"] for row in rows] == texts
    assert [store.manifest.labels[row["label"]] for row in rows] == texts
    assert add_source(store, ListSource("/i", samples)) == SourceChanges(0, len(samples), 0)
    for number, text in enumerate(texts):
        assert store.samples.rows_of_split(text).tolist() == [number]


@settings(SHARED_TMP_PATH)
@given(samples=st.lists(values, max_size=8))
def test_any_sample_round_trips_or_is_a_named_duplicate(
    tmp_path: Path, samples: list[Sample]
) -> None:
    """Whatever a source yields is stored as it is, or refused because of a repeated id."""
    store = Store.open_or_create(Path(tempfile.mkdtemp(dir=tmp_path)))
    source = ListSource("/i", samples)
    repeated = {s.id for s in samples if sum(other.id == s.id for other in samples) > 1}
    if repeated:
        with pytest.raises(UsageError) as caught:
            add_source(store, source)
        assert any(repr(sample_id) in str(caught.value) for sample_id in repeated)
        return
    add_source(store, source)
    names = source.label_names()
    expected = [as_row(row, sample, names, "/i") for row, sample in enumerate(samples)]
    assert store.samples.rows(0, len(samples)) == expected


def test_a_file_from_the_far_future_is_readable(tmp_path: Path) -> None:
    """A nonsensical modification time, as some file systems hold, does not stop a run."""
    store = new_store(tmp_path)
    add_source(store, ListSource("/i", [Sample("a", "a", bytes=1, mtime=3e11)]))
    assert store.samples.rows(0, 1)[0]["id"] == "a"


# --- splits


def test_rows_of_a_split(tmp_path: Path) -> None:
    """The rows of a split come in order, across parts; a split that nobody has means all rows."""
    store = new_store(tmp_path)
    add_source(store, numbered(10))
    add_source(store, numbered(17))
    test = [n for n in range(17) if n % 5 == 0]
    assert store.samples.rows_of_split("test").tolist() == test
    assert store.samples.rows_of_split("train").tolist() == [n for n in range(17) if n % 5]
    assert store.samples.rows_of_split("val").tolist() == list(range(17))


def test_rows_of_a_split_where_no_sample_has_one(tmp_path: Path) -> None:
    """Without splits every row is of any split; without samples there are no rows."""
    store = new_store(tmp_path)
    assert store.samples.rows_of_split("train").tolist() == []
    add_source(store, ListSource("/i", [Sample("a", "a"), Sample("b", "b")]))
    assert store.samples.rows_of_split("train").tolist() == [0, 1]
    add_source(store, ListSource("/i", [Sample("c", "c", split="train")]))
    assert store.samples.rows_of_split("train").tolist() == [2]
    assert store.samples.rows_of_split("train").dtype == np.int64


# --- other readers


def test_other_tools_read_the_parts_as_one_table(tmp_path: Path) -> None:
    """The directory is a Parquet data set: Arrow reads all parts with the documented columns."""
    store = new_store(tmp_path)
    for count in (3, 7, 8):
        add_source(store, numbered(count))
    directory = store.root / "samples.parquet"
    table = pq.read_table(directory)
    assert table.column_names == ["row", "id", "uri", "label", "split", "bytes", "mtime"]
    assert table["row"].to_pylist() == list(range(8))
    assert table["mtime"].type == pa.timestamp("us", tz="UTC")
    rows = [{k: v for k, v in row.items() if k != "root"} for row in store.samples.rows(0, 8)]
    assert table.to_pylist() == rows
    found = ds.dataset(directory).to_table(filter=ds.field("split") == "test", columns=["id"])
    assert found["id"].to_pylist() == ["00000000.jpg", "00000005.jpg"]


def test_a_part_that_was_never_committed_does_not_count(tmp_path: Path) -> None:
    """A kill between a part and store.json leaves the old table; a later run writes it anew."""
    store = new_store(tmp_path)
    add_source(store, numbered(5))
    before = (store.root / "store.json").read_bytes()
    add_source(store, numbered(9))
    (store.root / "store.json").write_bytes(before)  # the kill came before this was replaced
    again = Store.open(store.root)
    assert len(again.samples) == 5
    assert add_source(again, numbered(7)) == SourceChanges(2, 5, 0)
    assert ids_of(again) == [f"{n:08d}.jpg" for n in range(7)]
    assert len(pq.read_table(store.root / "samples.parquet")) == 7


def test_an_interrupted_part_does_not_hide_the_table(tmp_path: Path) -> None:
    """What a kill leaves in the directory does not keep other tools from reading the rest."""
    store = new_store(tmp_path)
    add_source(store, numbered(5))
    orphan = partial_path(store.root / "samples.parquet" / "part-00001.parquet")
    orphan.write_bytes(b"PAR1 half")
    assert len(pq.read_table(store.root / "samples.parquet")) == 5
