"""Combinations are compared row by row, and what chance may do is what counting says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, bootstrap

from feature_world import clustered, make_store
from fungistore.evaluation.compare import compare_features
from fungistore.evaluation.intervals import accuracy_interval
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.linear import evaluate_linear
from fungistore.evaluation.options import CompareOptions, KnnOptions, LinearOptions
from fungistore.evaluation.paired import (
    Combination,
    Hits,
    chance_of,
    paired_difference,
    resampled_interval,
    score_interval,
)


def combination(*runs: str, name: str = "one") -> Combination:
    """Return one that was tested on rows 10, 11, ...: + is right, - wrong, blanks another run's."""
    tested = []
    for run in runs:
        rows = [10 + place for place, sign in enumerate(run) if sign != " "]
        hits = [sign == "+" for sign in run if sign != " "]
        tested.append(Hits(np.array(rows), np.array(hits)))
    return Combination(name, tuple(tested))


def test_rows_that_change_are_a_coins_throws():
    """Counted by hand: 5 are gained and 1 is lost, so p is 2 x (1 + 6) of 64."""
    first = combination("++--------+", name="first")
    other = combination("++-+++++---", name="other")
    found = paired_difference(other, first)
    assert (found.against, found.gained, found.lost) == ("first", 5, 1)
    assert found.value == pytest.approx(4 / 11)
    assert found.p == pytest.approx(14 / 64) == binomtest(5, 6).pvalue
    assert found.interval == score_interval(5, 1, 11)
    assert paired_difference(first, first) is None


def test_the_same_answers_differ_by_nothing_and_yet_may_by_chance():
    """The interval of 12 unchanged rows is as wide as that of 12 right ones: z2 / (n + z2)."""
    first, other = combination("++++++++----"), combination("++++++++----")
    found = paired_difference(other, first)
    assert (found.value, found.p, found.gained, found.lost) == (0, 1, 0, 0)
    half = 1 - accuracy_interval(1.0, 12)[0]
    assert found.interval == pytest.approx((-half, half))


@pytest.mark.parametrize(
    ("gained", "lost", "count"), [(5, 0, 40), (0, 5, 40), (9, 3, 100), (1, 0, 44), (12, 2, 15)]
)
def test_the_interval_has_the_differences_that_a_score_test_keeps(gained, lost, count):
    """At both ends the score is 1.96, with the variance of the likeliest rows of that difference.

    The oracle searches these rows: the part that is lost has the greatest likelihood.
    """
    ends = score_interval(gained, lost, count)
    assert ends[0] < (gained - lost) / count < ends[1]
    for end in ends:

        def unlikeliness(part: float, end: float = end) -> float:
            parts = np.array([part + end, part, 1 - 2 * part - end])
            counts = np.array([gained, lost, count - gained - lost])
            return -float((counts * np.log(np.maximum(parts, 1e-300))).sum())

        bounds = (max(0.0, -end), (1 - end) / 2)
        part = minimize_scalar(unlikeliness, bounds=bounds, options={"xatol": 1e-12}).x
        error = np.sqrt((2 * part + end - end**2) / count)
        assert abs((gained - lost) / count - end) / error == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize("gained", [1, 12])
def test_rows_that_are_all_gained_are_within_what_a_difference_can_be(gained):
    low, high = score_interval(gained, 0, gained)
    assert high == 1
    assert -1 < low < 1
    assert score_interval(0, gained, gained) == pytest.approx((-1, -low))


@pytest.mark.parametrize(
    "changes", [[3, -1, 2, 0, 1, -1], [2, 2, 2, -1], [1, -2, 1], [4, 0, -4], [1, 2, 1]]
)
def test_chance_is_what_all_signs_come_to(changes):
    """Of all ways to turn rows over, the part whose sum is as far from 0."""
    sums = [sum(np.multiply(changes, signs)) for signs in product((1, -1), repeat=len(changes))]
    expected = np.mean(np.abs(sums) >= abs(sum(changes)))
    assert chance_of(np.array(changes)) == pytest.approx(expected)


def test_a_row_of_several_seeds_is_one_row():
    """Three seeds that repeat one test say no more than it: a row keeps or changes sign whole."""
    first, other = "++--------", "++++++++--"
    once = paired_difference(combination(other), combination(first))
    thrice = paired_difference(combination(*[other] * 3), combination(*[first] * 3))
    assert (once.p, once.value) == (thrice.p, thrice.value) == (2 / 64, 0.6)
    assert (thrice.gained, thrice.lost) == (18, 0)
    assert thrice.interval == resampled_interval(np.array([0, 0, 3, 3, 3, 3, 3, 3, 0, 0]), 30)


def test_rows_that_all_changed_alike_have_an_interval_with_a_width():
    """Resamples of them are all the same: it is that of the changes of a mean run."""
    gained = paired_difference(combination(*["+" * 10] * 2), combination(*["-" * 10] * 2))
    assert (gained.value, gained.interval) == (1, score_interval(10, 0, 10))
    to_and_fro = combination(*["+" * 10, "-" * 10] * 3), combination(*["-" * 10, "+" * 10] * 3)
    nothing = paired_difference(*to_and_fro)
    assert (nothing.gained, nothing.lost, nothing.value, nothing.p) == (30, 30, 0, 1)
    assert nothing.interval == score_interval(5, 5, 10)


def test_seeds_with_other_rows_are_added_row_by_row():
    """Row 11 is gained twice and 12 once, in runs that share no other row; 13 is lost."""
    first = combination("+-  ", " --+", name="first")
    other = combination("++  ", " ++-")
    found = paired_difference(other, first)
    assert (found.gained, found.lost, found.value) == (3, 1, 0.4)
    changes = np.array([0, 2, 1, -1])
    assert found.p == chance_of(changes) == pytest.approx(6 / 8)
    assert found.interval == resampled_interval(changes, 5)


@pytest.mark.parametrize("counts", [(9, 3, 88, 1), (5, 0, 35, 1), (30, 25, 145, 3)])
def test_the_interval_of_several_runs_is_that_of_resampled_rows(counts):
    gained, lost, same, most = counts
    random = np.random.default_rng(0)
    changes = np.array([1] * gained + [-1] * lost + [0] * same) * random.integers(
        1, most + 1, gained + lost + same
    )
    drawn = bootstrap((changes,), np.mean, n_resamples=4_999, method="percentile", rng=0)
    expected = np.array(drawn.confidence_interval) / most
    width = 1.01 / len(changes)
    np.testing.assert_allclose(
        resampled_interval(changes, most * len(changes)), expected, atol=width
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    vectors, labels = clustered(90, 3, 6, noise=2.5)
    other, _ = clustered(90, 3, 4, seed=7, noise=2.0)
    blocks = {"embeddings": vectors, "gradients/kl": other}
    return make_store(tmp_path_factory.mktemp("paired") / "s", blocks, labels)


@pytest.mark.parametrize(
    ("evaluate", "kind"), [(evaluate_knn, KnnOptions), (evaluate_linear, LinearOptions)]
)
def test_a_table_compares_with_its_first_combination(store, evaluate, kind):
    """On one split or over seeds, the difference is that of the accuracies."""
    options = {"combinations": "all", "holdout": 0.3}
    for seeds in ({}, {"seeds": 2}):
        first, *others = evaluate(store.root, kind(**options, **seeds)).scores
        assert first.difference is None
        assert len(others) == 2
        for score in others:
            found = score.difference
            assert found.against == "embeddings"
            apart = score.metrics["accuracy"] - first.metrics["accuracy"]
            assert found.value == pytest.approx(apart)
            low, high = found.interval
            assert low < found.value < high
            if not seeds:
                expected = binomtest(found.gained, found.gained + found.lost).pvalue
                assert found.p == pytest.approx(expected)
                assert (found.gained - found.lost) / score.n_test == pytest.approx(found.value)


def test_two_combinations_are_compared_as_a_whole_too(store):
    done = compare_features(store.root, CompareOptions(k=5, holdout=0.3))
    a, b = done.scores
    assert a.difference is None
    assert b.difference.against == "A"
    assert b.difference.value == pytest.approx(b.metrics["accuracy"] - a.metrics["accuracy"])
    document = done.to_json()["scores"]
    assert document[0]["difference"] is None
    assert document[1]["difference"]["p"] == b.difference.p
    assert done.to_pandas()["difference_low"].tolist()[1] == b.difference.interval[0]
