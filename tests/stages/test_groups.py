"""Rows that belong together stay together, as scikit-learn divides them, whatever their order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from feature_world import Notices, clustered, make_store
from fungistore.errors import UsageError
from fungistore.evaluation.compare import compare_features
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.linear import evaluate_linear
from fungistore.evaluation.options import CompareOptions, KnnOptions, LinearOptions
from fungistore.evaluation.shots import few
from fungistore.evaluation.task import open_task
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.matrices import groups as groups_module
from fungistore.matrices.groups import Groups, grouped_holdout, read_groups
from fungistore.matrices.splits import choose_split
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.randomness import Stream

PATIENTS = [f"p{row // 4:02d}" for row in range(80)]  # 20 of four images each
CLASSES = ["a", "b", "b", "a"] * 10 + ["b", "b", "c", "c"] * 10


def store_of(root, patients=PATIENTS, labels=CLASSES, splits=None, kind="text", width=4):
    vectors = clustered(len(labels), 3, width)[0].astype(np.float16)
    column = ("patient", kind, patients)
    return make_store(root, {"embeddings": vectors}, labels, splits, column=column)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("groups") / "s")


def sides(split, of=PATIENTS):
    """Return the groups of each side of a split."""
    return [{of[row] for row in rows} for rows in (split.train, split.validation, split.test)]


def test_a_holdout_takes_whole_groups_of_all_classes(store):
    """A fifth of the patients here, and of each class; another seed takes others."""
    split = choose_split(store, holdout=0.2, seed=0, group="patient")
    train, _, test = sides(split)
    assert not train & test
    assert len(test) == 4
    assert sorted([*split.train, *split.test]) == list(range(80))
    parts = np.bincount(store.samples.labels()[split.test]) / np.bincount(store.samples.labels())
    assert (np.abs(parts - 0.2) < 0.06).all()
    assert split.description == {"from": "all", "holdout": 0.2, "seed": 0, "group": "patient"}
    said = "--group patient: 4 of 20 groups, 20.0% of the rows, are held out by the seed 0"
    assert split.remark() == said
    assert split.remark(3) == f"{said}; other groups by each further seed, to 2"
    others = {
        frozenset(sides(choose_split(store, holdout=0.2, seed=seed, group="patient"))[2])
        for seed in range(6)
    }
    assert len(others) > 3
    unasked = choose_split(store, holdout=None, seed=0, group="patient")
    assert unasked.test.tolist() == split.test.tolist()
    assert unasked.remark().startswith("the store has no splits")
    assert unasked.remark().endswith(said)


@pytest.mark.parametrize("purpose", ["holdout", "validation"])
def test_the_groups_are_folds_of_scikit_learn(purpose):
    """Of 3 of 10 folds, those with the smallest keys; the seed's first key shuffles the groups."""
    random = np.random.default_rng(0)
    numbers, labels = random.integers(0, 40, 300), random.integers(0, 3, 300).astype(np.int32)
    rows, groups = np.arange(300), Groups("g", numbers)
    kept, held = grouped_holdout(rows, labels, groups, 0.3, 7, purpose)
    keys = Stream(7, purpose, "groups").uniform(11)
    folds = StratifiedGroupKFold(10, shuffle=True, random_state=int(keys[0] * 2**32))
    tests = [test for _, test in folds.split(rows, labels, numbers)]
    chosen = np.argsort(keys[1:])[:3]
    assert held.tolist() == sorted(np.concatenate([tests[one] for one in chosen]).tolist())
    assert sorted([*kept, *held]) == rows.tolist()


@given(
    drawn=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 6)), min_size=2, max_size=50),
    part=st.sampled_from([0.1, 0.2, 0.5, 0.7]),
    seed=st.integers(-1, 3),
)
@settings(max_examples=20, deadline=None)
def test_no_group_is_on_both_sides_whatever_the_order(drawn, part, seed):
    """Every class is trained on that has rows, and the order of rows changes no group's side."""
    labels, numbers = np.array(drawn, np.int64).T
    labels, rows = labels.astype(np.int32), np.arange(len(labels))
    kept, held = grouped_holdout(rows, labels, Groups("g", numbers), part, seed)
    assert sorted([*kept, *held]) == rows.tolist()
    assert len(kept)
    assert not set(numbers[kept]) & set(numbers[held])
    alone = [one for one in range(4) if len(set(numbers[labels == one])) == 1]
    assert np.isin(alone, labels[kept]).all()
    order = np.random.default_rng(0).permutation(len(rows))
    other = grouped_holdout(rows, labels[order], Groups("g", numbers[order]), part, seed)
    assert set(numbers[order][other[1]]) == set(numbers[held])


@pytest.mark.parametrize(
    ("part", "folds"),
    [(0.2, "1/5"), (0.25, "1/4"), (0.3, "3/10"), (0.5, "1/2"), (0.15, "3/20"), (0.8, "4/5"),
     (1 / 3, "1/3"), (0.02, "1/50"), (0.99, "99/100")],
)  # fmt: skip
def test_a_part_is_so_many_folds_of_so_many(part, folds):
    assert groups_module._folds(part) == Fraction(folds)


@pytest.mark.parametrize(("count", "part", "held"), [(3, 0.2, 1), (3, 0.7, 2), (2, 0.9, 1)])
def test_fewer_groups_than_folds_are_folds_themselves(count, part, held):
    """At least one group is on each side."""
    numbers, labels = np.repeat(np.arange(count), 4), np.tile([0, 1], 2 * count).astype(np.int32)
    groups = Groups("g", numbers)
    _, chosen = grouped_holdout(np.arange(4 * count), labels, groups, part, 0)
    assert groups.count(chosen) == held


def test_a_class_within_one_group_is_trained_on_and_said(tmp_path):
    """It cannot be on both sides; without it in training, its test rows would all be wrong."""
    labels = ["a", "b"] * 38 + ["rare"] * 4
    store = store_of(tmp_path / "s", labels=labels)
    for seed in range(4):
        split = choose_split(store, holdout=0.3, seed=seed, group="patient")
        assert not set(range(76, 80)) & set(split.test.tolist())
        kept = "groups with all rows of a class are kept to train on: rare"
        assert split.remark().endswith(kept)


@pytest.mark.parametrize(
    ("patients", "labels", "found"),
    [
        (["p"] * 8, ["a", "b"] * 4, "1 group"),
        (["p", "q"] * 4, ["a", "b"] * 4, "2 groups; all rows of a class are in one of them: a, b"),
    ],
)
def test_groups_that_cannot_be_held_out_are_refused(tmp_path, patients, labels, found):
    """One alone, or those that are classes."""
    store = store_of(tmp_path / "s", patients, labels)
    with pytest.raises(UsageError, match="no two groups that can be held out") as caught:
        choose_split(store, holdout=0.5, seed=0, group="patient")
    assert caught.value.found == found


def test_columns_that_name_no_group_are_refused(tmp_path, store):
    """A name that is none of the samples' columns, and cells with nothing in them, counted."""
    with pytest.raises(UsageError, match="no such column") as caught:
        choose_split(store, holdout=0.2, seed=0, group="pateint")
    assert caught.value.expected == "patient"
    bare = make_store(tmp_path / "bare", {}, ["a", "b"] * 4)
    with pytest.raises(UsageError, match="no such column") as caught:
        choose_split(bare, holdout=0.2, seed=0, group="patient")
    assert "fungi label" in caught.value.hint
    gaps = store_of(tmp_path / "gaps", [None, " ", *PATIENTS[2:]])
    with pytest.raises(UsageError, match="2 rows are of no group") as caught:
        choose_split(gaps, holdout=0.2, seed=0, group="patient")
    assert caught.value.found == "none for 000000.jpg, 000001.jpg"


@pytest.mark.parametrize(
    ("kind", "cells", "numbers"),
    [
        ("int", [30, 4, None, 30], [1, 0, -1, 1]),
        ("float", [0.5, float("nan"), -1.0, 0.5], [1, -1, 0, 1]),
        ("bool", [True, False, None, True], [1, 0, -1, 1]),
        ("text", ["0", "", "10", "2"], [0, -1, 1, 2]),
        ("text", ["p1 ", "p1", " ", "\tp0"], [1, 1, -1, 0]),
    ],
)
def test_cells_of_every_type_name_groups(tmp_path, kind, cells, numbers):
    """Equal ones the same, whatever blanks are around them; nothing, blanks and NaN none."""
    store = store_of(tmp_path / "s", cells, ["a", "b"] * 2, kind=kind)
    assert read_groups(store, "patient", np.zeros(0, np.int64)).numbers.tolist() == numbers


def test_parts_of_a_store_without_the_column_have_no_groups(tmp_path):
    """Rows that came before the column, and a column whose type has changed since."""
    make_store(tmp_path / "s", {}, ["a", "b"] * 2)
    store = store_of(tmp_path / "s", [None] * 4 + [7, 8], ["a", "b"] * 3, kind="int")
    assert store.samples.cells("patient") == [None] * 4 + [7, 8]
    with pytest.raises(UsageError, match="4 rows are of no group"):
        choose_split(store, holdout=0.2, seed=0, group="patient")


def test_a_store_whose_own_splits_divide_groups_is_warned_of(tmp_path):
    """The rows are as they were; groups that are whole are not spoken of."""
    splits = ["train"] * 42 + ["val"] * 17 + ["test"] * 21
    store = store_of(tmp_path / "s", splits=splits)
    split = choose_split(store, holdout=None, seed=0, group="patient")
    assert split.test.tolist() == choose_split(store, holdout=None, seed=0).test.tolist()
    assert "--group patient: 2 of 20 groups are in more than one of" in split.remark()
    assert split.remark().endswith("; --holdout 0.2 keeps groups whole")
    assert split.remark(is_fixed=True).endswith("; fungi label gives other splits")
    whole = store_of(tmp_path / "w", splits=["train"] * 40 + ["test"] * 40)
    assert choose_split(whole, holdout=None, seed=0, group="patient").remark() is None
    train, _, test = sides(choose_split(store, holdout=0.3, seed=0, group="patient"))
    assert not train & test


def test_rows_to_validate_on_are_whole_groups_of_the_training_side(store):
    """Of the linear probe and of heads; a head is tested on the groups that it has not seen."""
    options = LinearOptions(holdout=0.2, group="patient", strengths=(1e-3, 1e-4))
    said = []
    done = evaluate_linear(store.root, options, context=Context(Notices(said)))
    assert any("4 of 20 groups" in one for one in said)
    assert done.protocol["split"]["group"] == "patient"
    task = open_task(store.root, holdout=0.2, group="patient")
    _, held = task.split.hold_out(task.split.train, task.labels, 0.2, 0, "validation")
    assert done.scores[0].protocol["validation_rows"] == len(held)
    trained = train_loff(
        store.root,
        TrainOptions(head="linear", holdout=0.2, group="patient", epochs=1, device="cpu"),
    )
    assert (trained.n_train, trained.n_validation) == (64 - len(held), len(held))
    assert trained.split["group"] == "patient"
    tested = evaluate_loff(store.root, LoffOptions(device="cpu"))
    assert tested.scores[0].n_test == 16
    assert tested.protocol["splits"]["linear"]["group"] == "patient"


def test_rows_of_a_shots_group_are_not_spare(store):
    """A probe of shots chooses its strength on groups that it has not learnt from."""
    task = open_task(store.root, holdout=0.2, group="patient")
    chosen = few(task, 2, "random", 0)
    spare = {PATIENTS[row] for row in chosen.spare}
    assert spare
    assert not spare & {PATIENTS[row] for row in chosen.split.train}
    assert spare <= sides(task.split)[0]


def test_shots_are_drawn_where_each_group_has_one(tmp_path):
    """No row is spare then, and yet other seeds take other shots: none of them is left out."""
    store = store_of(tmp_path / "s", splits=["train"] * 40 + ["test"] * 40)
    options = KnnOptions(k=1, group="patient", shots=(1, 10), split_seeds=2)
    task = open_task(store.root, group="patient")
    assert not len(few(task, 10, "random", 0).spare)
    for score in evaluate_knn(store.root, options).scores:
        assert len(score.protocol["runs"]) == 2


def test_two_groups_leave_none_to_validate_on(tmp_path):
    """The probe takes the middle strength and says so; a head is refused."""
    store = store_of(tmp_path / "s", ["p"] * 40 + ["q"] * 40, ["a", "b"] * 40)
    said = []
    options = LinearOptions(holdout=0.5, group="patient", strengths=(1e-5, 1e-4, 1e-3))
    done = evaluate_linear(store.root, options, context=Context(Notices(said)))
    assert done.scores[0].protocol["strength"] == 1e-4
    assert any("or one group has all" in one for one in said)
    with pytest.raises(UsageError, match="held out to validate on"):
        train_loff(store.root, TrainOptions(head="linear", holdout=0.5, group="patient"))


def test_every_stage_with_a_holdout_holds_out_the_same_groups(store):
    """Neighbours, comparisons, and a PCA, which may be tested on no other rows."""
    rows = {"holdout": 0.25, "group": "patient"}
    knn = evaluate_knn(store.root, KnnOptions(k=3, **rows))
    assert knn.scores[0].n_test == 20
    compared = compare_features(store.root, CompareOptions(k=3, a=("embeddings",), **rows))
    assert compared.scores[0].metrics["accuracy"] == knn.scores[0].metrics["accuracy"]
    fit_pca(store.root, PcaOptions(name="grouped", dim=2, **rows))
    evaluate_knn(store.root, KnnOptions(k=3, pca="grouped", **rows))
    with pytest.raises(UsageError, match="cannot use this value of group"):
        PcaOptions(group="patient")
