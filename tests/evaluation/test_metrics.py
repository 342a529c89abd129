"""Metrics of a classification, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fungistore.evaluation.metrics import (
    Predictions,
    accuracy_interval,
    classification_metrics,
    over_runs,
)


def predictions(*ranked: tuple[int, ...], positive: list[float] | None = None) -> Predictions:
    chances = None if positive is None else np.array(positive)
    return Predictions(np.array(ranked, np.int32), chances)


def test_accuracies_are_counts_of_hits() -> None:
    """Of all rows; and of the rows of each class that occurs, averaged over these classes."""
    truth = np.array([0, 0, 0, 1, 1, 3], np.int32)
    said = predictions((0,), (0,), (1,), (1,), (0,), (2,))
    found = classification_metrics(truth, said, 4)
    expected = (2 / 3 + 1 / 2 + 0 / 1) / 3
    assert found == {
        "accuracy": 3 / 6,
        "mean_per_class_accuracy": pytest.approx(expected),
        "balanced_accuracy": pytest.approx(expected),
    }


@pytest.mark.parametrize("classes", [5, 6])
def test_top_5_is_there_for_more_than_five_classes(classes: int) -> None:
    """A hit is the truth among the first five; the sixth is none."""
    truth = np.array([0, 4, 5, 2], np.int32)
    said = predictions(
        (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, -1)
    )
    found = classification_metrics(truth, said, classes)
    assert found["accuracy"] == 0.25
    assert found.get("top5_accuracy") == (0.75 if classes == 6 else None)


def test_the_area_under_the_curve_is_the_part_of_pairs_in_order() -> None:
    """Of a row of the second class and one of the first; a tie is half of one."""
    truth = np.array([0, 0, 1, 1, 1], np.int32)
    said = predictions((0,), (0,), (1,), (1,), (0,), positive=[0.1, 0.6, 0.9, 0.6, 0.3])
    found = classification_metrics(truth, said, 2)
    assert found["roc_auc"] == pytest.approx((1 + 1 + 1 + 0.5 + 1 + 0) / 6)
    one_class = classification_metrics(truth[2:3], predictions((1,), positive=[0.9]), 2)
    assert "roc_auc" not in one_class
    assert "roc_auc" not in classification_metrics(
        truth, predictions((0,), (0,), (1,), (1,), (0,)), 2
    )


def test_quadratic_kappa_is_one_minus_observed_over_expected_disagreement() -> None:
    """Weighed by squared distance of the ranks; classes that nobody names count in no way."""
    ranks = np.array([4, 0, 3, 2, 1])
    truth, said = np.array([0, 1, 2, 4, 4], np.int32), np.array([0, 2, 2, 4, 0], np.int32)
    observed = ((ranks[truth] - ranks[said]) ** 2).mean()
    expected = np.mean([(ranks[one] - ranks[other]) ** 2 for one in truth for other in said])
    ranked = predictions(*((label,) for label in said))
    found = classification_metrics(truth, ranked, 5, ranks)
    assert found["quadratic_kappa"] == pytest.approx(1 - observed / expected)
    assert "quadratic_kappa" not in classification_metrics(truth, ranked, 5)
    one_class = classification_metrics(truth[3:], predictions((4,), (0,)), 5, ranks)
    assert "quadratic_kappa" not in one_class


def test_probabilities_are_ranked_by_falling_chance_and_ties_by_column() -> None:
    chances = np.array([[0.1, 0.3, 0.3, 0.2, 0.05, 0.03, 0.02], [1 / 7] * 7], np.float32)
    labels = np.array([9, 8, 7, 6, 5, 4, 3])
    found = Predictions.of_probabilities(chances, labels)
    assert found.ranked.tolist() == [[8, 7, 6, 9, 5], [9, 8, 7, 6, 5]]
    assert found.ranked.dtype == np.int32
    assert found.labels.tolist() == [8, 9]
    assert found.positive is None


def test_many_equal_chances_keep_the_order_of_columns() -> None:
    """Enough of them that a sort which is not stable would mix them."""
    chances = np.tile(np.repeat([0.3, 0.7], 20) / 20, (1, 1))
    found = Predictions.of_probabilities(chances, np.arange(40))
    assert found.ranked.tolist() == [[20, 21, 22, 23, 24]]


def test_of_two_classes_the_chance_of_the_second_is_kept() -> None:
    chances = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)
    found = Predictions.of_probabilities(chances, np.array([0, 1]))
    assert found.positive is not None
    assert found.positive.tolist() == chances[:, 1].astype(np.float64).tolist()
    assert found.positive.dtype == np.float64
    both = Predictions.joined([found, found])
    assert both.ranked.tolist() == [[1, 0], [0, 1]] * 2
    assert both.positive is not None
    assert both.positive.tolist() == 2 * found.positive.tolist()
    assert Predictions.joined([predictions((3, 1)), predictions((2, 0))]).positive is None


def test_one_run_has_an_interval_and_several_a_deviation() -> None:
    """The metrics of several are the means of those that all have."""
    one = {"accuracy": 0.5, "roc_auc": 0.7}
    assert over_runs([one], 100) == (one, {"accuracy": accuracy_interval(0.5, 100)})
    means, spread = over_runs([one, {"accuracy": 0.8}, {"accuracy": 0.8, "roc_auc": 1.0}], 100)
    assert means == {
        "accuracy": pytest.approx(0.7),
        "accuracy_deviation": pytest.approx(np.sqrt((0.2**2 + 0.1**2 + 0.1**2) / 2)),
    }
    assert spread == {}


def test_an_interval_is_of_the_binomial_distribution() -> None:
    """The counts below which 2.5 % of 1000 trials stay, and 97.5 %."""
    assert accuracy_interval(0.5, 1000) == (0.469, 0.531)
    assert accuracy_interval(1.0, 10) == (1.0, 1.0)


def test_the_area_is_of_the_two_labels_that_were_told_apart() -> None:
    """Whatever their numbers; not of two others that the truth may have."""
    chances = np.array([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    said = Predictions.of_probabilities(chances, np.array([3, 7]))
    assert said.pair == Predictions.joined([said, said]).pair == (3, 7)
    found = classification_metrics(np.array([7, 3, 3], np.int32), said, 9)
    assert found["roc_auc"] == 1.0
    assert "roc_auc" not in classification_metrics(np.array([7, 2, 2], np.int32), said, 9)
