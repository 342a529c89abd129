"""Splits come from the store, or a stratified holdout that depends on the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_world import make_store
from fungistore.errors import UsageError
from fungistore.evaluation.task import open_task
from fungistore.loff.data import open_head_data
from fungistore.matrices.splits import Split, choose_split, stratified_holdout
from fungistore.randomness import Stream


def test_the_stores_own_splits_are_used(tmp_path):
    splits = ["train", "test", "val", None] * 5
    split = choose_split(make_store(tmp_path / "s", {}, ["a"] * 20, splits), holdout=None, seed=0)
    assert split.train.tolist() == list(range(0, 20, 4))
    assert split.test.tolist() == list(range(1, 20, 4))
    assert split.validation.tolist() == list(range(2, 20, 4))


def test_without_a_test_split_val_is_tested(tmp_path):
    store = make_store(tmp_path / "s", {}, ["a"] * 4, ["train", "val"] * 2)
    split = choose_split(store, holdout=None, seed=0)
    assert split.test.tolist() == [1, 3]
    assert not len(split.validation)
    assert split.description["test"] == "val"


@pytest.mark.parametrize(
    ("splits", "pool", "because"),
    [
        (None, range(40), "the store has no splits"),
        (["train"] * 30 + [None] * 10, range(30), 'a split "train", and none to test on'),
    ],
)
def test_without_test_rows_a_fifth_is_held_out(tmp_path, splits, pool, because):
    """By itself, stratified, the same rows each time and those of --holdout 0.2; it says why."""
    store = make_store(tmp_path / "s", {}, ["a", "b"] * 20, splits)
    split, again, asked = (choose_split(store, holdout=part, seed=3) for part in (None, None, 0.2))
    assert sorted([*split.train, *split.test]) == list(pool)
    assert (split.test % 2).mean() == 0.5
    assert len(split.test) == len(pool) // 5
    assert split.test.tolist() == again.test.tolist() == asked.test.tolist()
    assert because in split.description["because"]
    assert split.description == asked.description | {"because": split.description["because"]}
    assert split.remark().endswith(
        "20% of each class, chosen by the seed 3, are held out to test on; "
        "--holdout takes another part"
    )
    assert "chosen by the seeds 3 to 5, are" in split.remark(3)
    assert "--holdout" not in split.remark(is_fixed=True)
    assert asked.remark() is None
    assert choose_split(store, holdout=None, seed=4).test.tolist() != split.test.tolist()


def test_a_holdout_never_touches_the_other_splits(tmp_path):
    store = make_store(tmp_path / "s", {}, ["a", "b"] * 20, ["train"] * 20 + ["test"] * 20)
    split = choose_split(store, holdout=0.3, seed=1)
    assert np.concatenate([split.train, split.test]).max() < 20
    assert len(split.test) == 6


@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=80),
    part=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_a_holdout_is_stratified_disjoint_and_complete(labels, part, seed):
    labels = np.array(labels, np.int32)
    rows = np.arange(len(labels))
    kept, held = stratified_holdout(rows, labels, part, seed)
    assert sorted([*kept, *held]) == rows.tolist()
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    for label in np.unique(labels):
        count = (labels == label).sum()
        wanted = np.clip(round(part * count), count > 1, count - 1)
        assert (labels[held] == label).sum() == wanted
    again = stratified_holdout(rows, labels, part, seed)
    assert np.array_equal(again[1], held)


def test_another_seed_or_purpose_holds_out_other_rows():
    rows, labels = np.arange(200), np.zeros(200, np.int32)
    held = [
        set(stratified_holdout(rows, labels, 0.5, *choice)[1].tolist())
        for choice in [(0,), (1,), (0, "validation")]
    ]
    assert len({frozenset(h) for h in held}) == 3


@pytest.mark.parametrize("part", [0.0, 1.0, -1.0, 2.0])
def test_a_holdout_of_nothing_or_everything_is_refused(part):
    with pytest.raises(UsageError):
        stratified_holdout(np.arange(4), np.zeros(4, np.int32), part, 0)


def test_a_split_says_where_it_comes_from(tmp_path):
    """As part of a protocol: names of splits, or what was held out of what, by which seed."""
    store = make_store(tmp_path / "s", {}, ["a", "b"] * 4, ["train"] * 5 + ["test", "val", None])
    assert choose_split(store, holdout=None, seed=3).description == {
        "from": "store",
        "train": "train",
        "test": "test",
    }
    held = choose_split(store, holdout=0.5, seed=3)
    assert held.description == {"from": "train", "holdout": 0.5, "seed": 3}
    assert sorted([*held.train, *held.test]) == [0, 1, 2, 3, 4]
    assert held.validation.tolist() == []
    assert held.validation.dtype == np.int64
    whole = make_store(tmp_path / "w", {}, ["a"] * 4)
    split = choose_split(whole, holdout=0.5, seed=3)
    assert split.description == {"from": "all", "holdout": 0.5, "seed": 3}
    assert (len(split.train), len(split.test)) == (2, 2)


def test_a_store_without_a_split_val_has_no_validation_rows(tmp_path):
    store = make_store(tmp_path / "s", {}, ["a"] * 2, ["train", "test"])
    split = choose_split(store, holdout=None, seed=0)
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == ([0], [], [1])


@pytest.mark.parametrize("other", ["validation", "dev", "Test"])
def test_a_split_that_may_be_meant_for_testing_is_not_passed_over(tmp_path, other):
    """Beside train, a name that is neither test nor val is refused, and train not divided."""
    store = make_store(tmp_path / "s", {}, ["a", "b"] * 20, ["train"] * 30 + [other] * 10)
    with pytest.raises(UsageError, match="no train and test splits") as caught:
        choose_split(store, holdout=None, seed=0)
    assert f"{other} 10" in str(caught.value.found)
    assert "test or val" in caught.value.hint
    assert len(choose_split(store, holdout=0.2, seed=0).test) == 6  # of the train rows


@pytest.mark.parametrize(
    ("splits", "outside"),
    [
        (None, 0),
        (["train"] * 30 + [None] * 10, 10),
        (["train"] * 20 + ["test"] * 10 + [None] * 10, 10),
        (["train"] * 20 + ["test"] * 20, 0),
    ],
)
def test_rows_without_a_split_are_counted_where_others_have_one(tmp_path, splits, outside):
    """They are neither trained nor tested on, which every evaluation says among what it leaves."""
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float16)
    store = make_store(tmp_path / "s", {"embeddings": vectors}, ["a", "b"] * 20, splits)
    counted = {"rows without a split": outside} if outside else {}
    unasked = {"rows without a label": 0, "rows without usable features": 0}
    assert open_task(store.root, seed=0).excluded == unasked | counted
    data = open_head_data(
        store, "embeddings", feature_set=None, pool=1, holdout=None, validation=0.2, seed=0
    )
    assert data.excluded == unasked | counted


def test_held_out_rows_that_are_all_unusable_are_not_said_to_be_single(tmp_path):
    """Classes of one usable row cannot be divided; others could, and lack something else."""
    labels = ["a", "b"] * 5
    held = choose_split(make_store(tmp_path / "m", {}, labels), holdout=None, seed=0).test
    vectors = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float16)
    vectors[held] = np.nan
    store = make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    with pytest.raises(UsageError, match="there are no test rows") as caught:
        open_task(store.root)
    assert "2 rows, none with a label and usable features" in str(caught.value.found)


@pytest.mark.parametrize("splits", [["test", "test"], ["val", "test"], ["a", "b"]])
def test_splits_without_train_rows_are_not_divided(tmp_path, splits):
    """Rows that somebody set aside for testing are not trained on unasked."""
    store = make_store(tmp_path / "s", {}, ["a"] * 2, splits)
    with pytest.raises(UsageError, match="no train and test splits") as caught:
        choose_split(store, holdout=None, seed=0)
    assert "--holdout" in caught.value.hint
    for name in splits:
        assert f"{name} {splits.count(name)}" in str(caught.value.found)


def test_a_split_keeps_what_a_mask_allows():
    split = Split(np.array([0, 2, 4]), np.array([1]), np.array([3, 5]), {"from": "here"})
    mask = np.array([True, True, False, True, True, False])
    kept = split.keep(mask)
    assert (kept.train.tolist(), kept.validation.tolist(), kept.test.tolist()) == ([0, 4], [1], [3])
    assert kept.description == {"from": "here"}
    assert not split.keep(~mask).validation.size


def test_a_holdout_has_the_smallest_keys_of_each_class():
    """By a stream of the seed and purpose, a number a row; each class rounds its part to even."""
    rows = np.array([1, 3, 4, 6, 7, 9, 12])
    labels = np.array([9, 0, 9, 1, 0, 9, 0, 1, 9, 0, 9, 9, 2], np.int32)
    for purpose in ("holdout", "validation"):
        keys = Stream(5, purpose).uniform(13)
        zeros = sorted([1, 4, 6, 9], key=lambda row: keys[row])[:2]  # 0.6 of 4 is 2.4
        ones = sorted([3, 7], key=lambda row: keys[row])[:1]
        kept, held = stratified_holdout(rows, labels, 0.6, 5, purpose)
        assert held.tolist() == sorted([*zeros, *ones])
        assert kept.tolist() == sorted(set(rows.tolist()) - {*zeros, *ones})
    by_default = stratified_holdout(rows, labels, 0.6, 5)[1]
    assert by_default.tolist() == stratified_holdout(rows, labels, 0.6, 5, "holdout")[1].tolist()


def test_nothing_is_divided_into_nothing():
    kept, held = stratified_holdout(np.zeros(0, np.int64), np.zeros(0, np.int32), 0.5, 0)
    assert (kept.tolist(), held.tolist()) == ([], [])
