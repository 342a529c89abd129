"""Metrics of a classification, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, t
from sklearn.metrics import roc_auc_score

from fungistore.evaluation.intervals import accuracy_interval, metric_intervals, over_runs
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.roc import roc_auc


def predictions(*ranked: tuple[int, ...], positive: list[float] | None = None) -> Predictions:
    if positive is None:
        return Predictions(np.array(ranked, np.int32))
    chances = np.stack([1 - np.array(positive), positive], axis=1)
    return Predictions(np.array(ranked, np.int32), chances, np.array([0, 1]))


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
    assert found.chances is not None
    assert found.chances.tolist() == chances.tolist()
    assert found.columns.tolist() == labels.tolist()


def test_many_equal_chances_keep_the_order_of_columns() -> None:
    """Enough of them that a sort which is not stable would mix them."""
    chances = np.tile(np.repeat([0.3, 0.7], 20) / 20, (1, 1))
    found = Predictions.of_probabilities(chances, np.arange(40))
    assert found.ranked.tolist() == [[20, 21, 22, 23, 24]]


def test_probabilities_of_consecutive_rows_are_joined() -> None:
    """Those of two classes as they are, of more in float32; rows without any have none."""
    chances = np.array([[0.2, 0.8], [0.6, 0.4]])
    found = Predictions.of_probabilities(chances, np.array([0, 1]))
    both = Predictions.joined([found, found])
    assert both.ranked.tolist() == [[1, 0], [0, 1]] * 2
    assert both.chances is not None
    assert both.chances.tolist() == chances.tolist() * 2
    assert both.chances.dtype == np.float64
    three = Predictions.of_probabilities(np.full((2, 3), 1 / 3), np.arange(3))
    assert three.chances is not None
    assert three.chances.dtype == np.float32
    assert Predictions.joined([predictions((3, 1)), predictions((2, 0))]).chances is None


def test_one_run_has_its_intervals_and_several_a_deviation() -> None:
    """The metrics of several are the means of those that all have; t has two degrees here."""
    one = {"accuracy": 0.5, "roc_auc": 0.7}
    assert over_runs([one], {"accuracy": (0.4, 0.6)}) == (one, {"accuracy": (0.4, 0.6)})
    runs = [one, {"accuracy": 0.8}, {"accuracy": 0.8, "roc_auc": 1.0}]
    means, spread = over_runs(runs, {})
    deviation = np.sqrt((0.2**2 + 0.1**2 + 0.1**2) / 2)
    assert means == {
        "accuracy": pytest.approx(0.7),
        "accuracy_deviation": pytest.approx(deviation),
    }
    half = t.ppf(0.975, 2) * deviation / np.sqrt(3)
    assert spread == {"accuracy": pytest.approx((0.7 - half, 1.0))}  # no mean is above 1


def test_a_mean_kappa_may_be_below_zero() -> None:
    """No other metric can."""
    runs = [{"accuracy": 0.1, "quadratic_kappa": 0.1}, {"accuracy": 0.3, "quadratic_kappa": -0.1}]
    means, spread = over_runs(runs, {})
    assert means["quadratic_kappa_deviation"] == pytest.approx(np.sqrt(0.02))
    assert spread["quadratic_kappa"][0] == -1
    assert spread["accuracy"] == (0, 1)


@pytest.mark.parametrize("classes", [3, 7])
def test_the_area_of_several_classes_is_scikit_learns(classes: int) -> None:
    """One against the rest, the mean over classes; ties among the chances, too."""
    random = np.random.default_rng(classes)
    truth = random.integers(0, classes, 200).astype(np.int32)
    chances = random.dirichlet(np.ones(classes), 200) + 0.3 * np.eye(classes)[truth]
    chances = np.round(chances, 1) + 1e-3
    chances /= chances.sum(axis=1, keepdims=True)
    chances = chances.astype(np.float32)
    said = Predictions.of_probabilities(chances, np.arange(classes))
    expected = roc_auc_score(truth, chances, multi_class="ovr", average="macro")
    found = classification_metrics(truth, said, classes)
    assert found["roc_auc"] == pytest.approx(expected, abs=1e-12)


def test_the_area_is_of_the_classes_that_the_truth_has() -> None:
    """Columns of others count in no way; a class without a column leaves no area."""
    random = np.random.default_rng(0)
    truth = random.choice([2, 5], 50).astype(np.int32)
    chances = random.dirichlet(np.ones(4), 50).astype(np.float32)
    said = Predictions.of_probabilities(chances, np.array([1, 2, 5, 9]))
    expected = np.mean(
        [roc_auc_score(truth == 2, chances[:, 1]), roc_auc_score(truth == 5, chances[:, 2])]
    )
    assert classification_metrics(truth, said, 10)["roc_auc"] == pytest.approx(expected)
    truth[0] = 3
    assert "roc_auc" not in classification_metrics(truth, said, 10)
    assert "roc_auc" not in classification_metrics(np.full(50, 2, np.int32), said, 10)


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_are_those_of_resampled_rows(classes: int) -> None:
    """The oracle draws rows 500 times, and counts what each metric is of."""
    random = np.random.default_rng(1)
    truth = random.integers(0, classes, 150).astype(np.int32)
    chances = random.dirichlet(np.ones(classes), 150) + 0.4 * np.eye(classes)[truth]
    chances /= chances.sum(axis=1, keepdims=True)
    said = Predictions.of_probabilities(chances, np.arange(classes))
    ranks = np.arange(classes)[::-1].copy()
    metrics = classification_metrics(truth, said, classes, ranks)
    spread = metric_intervals(truth, said, metrics, ranks)
    assert spread.keys() == metrics.keys()
    assert spread == metric_intervals(truth, said, metrics, ranks)
    drawn: dict[str, list[float]] = {name: [] for name in spread}
    for _ in range(500):
        rows = random.integers(0, 150, 150)
        one, labels, scores = truth[rows], said.labels[rows], chances[rows]
        drawn["accuracy"].append(float((one == labels).mean()))
        recalls = [(labels[one == label] == label).mean() for label in range(classes)]
        drawn["balanced_accuracy"].append(float(np.mean(recalls)))
        areas = []
        for label in range(classes)[1 if classes == 2 else 0 :]:
            own, others = scores[one == label, label], scores[one != label, label]
            areas.append((own[:, None] > others).mean())
        drawn["roc_auc"].append(float(np.mean(areas)))
        expected = ((one[:, None] - labels) ** 2).mean()
        drawn["quadratic_kappa"].append(float(1 - ((one - labels) ** 2).mean() / expected))
    drawn["mean_per_class_accuracy"] = drawn["balanced_accuracy"]
    for name, values in drawn.items():
        width = np.ptp(np.quantile(values, [0.025, 0.975]))
        np.testing.assert_allclose(
            spread[name], np.quantile(values, [0.025, 0.975]), atol=0.2 * width
        )


@pytest.mark.parametrize("sizes", [(4, 4, 4), (1, 4, 9)])
def test_a_classifier_that_is_always_right_may_have_been_lucky(sizes: tuple[int, ...]) -> None:
    """Resampling sees no error to make, so shares of rows have Wilson's interval, others none."""
    truth = np.repeat(np.arange(3, dtype=np.int32), sizes)
    said = Predictions.of_probabilities(np.eye(3)[truth], np.arange(3))
    metrics = classification_metrics(truth, said, 3, np.arange(3))
    spread = metric_intervals(truth, said, metrics, np.arange(3))
    assert spread.keys() == metrics.keys() - {"roc_auc", "quadratic_kappa"}
    assert spread["accuracy"] == accuracy_interval(1.0, len(truth))
    recall = spread["mean_per_class_accuracy"]
    assert recall == spread["balanced_accuracy"]
    if len(set(sizes)) == 1:  # a mean recall of classes of one size is the accuracy
        assert recall == pytest.approx(spread["accuracy"])
    else:  # here the class of one row weighs as much as that of nine
        assert recall == pytest.approx(accuracy_interval(1.0, 9 / (1 + 1 / 4 + 1 / 9)))
        assert recall[0] < spread["accuracy"][0]
    area = roc_auc(truth, said)
    assert area is not None
    assert (area.value, area.error) == (1, 0)


def test_a_recall_that_no_resample_changes_has_the_interval_of_a_half() -> None:
    """All rows of one class right and of the other wrong: every resample has a half, or one."""
    truth = np.repeat(np.array([0, 1], np.int32), 30)
    said = Predictions(np.zeros((60, 1), np.int32))
    metrics = classification_metrics(truth, said, 2)
    spread = metric_intervals(truth, said, metrics)
    assert spread["balanced_accuracy"] == pytest.approx(accuracy_interval(0.5, 60))


@pytest.mark.parametrize(("right", "count"), [(12, 12), (0, 7), (1, 1), (3, 10), (500, 1000)])
def test_an_accuracy_has_wilsons_interval(right: int, count: int) -> None:
    """As scipy has it; 12 of 12 is 75.8 to 100."""
    expected = binomtest(right, count).proportion_ci(method="wilson")
    low, high = accuracy_interval(right / count, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= right / count <= high <= 1
    if (right, count) == (12, 12):
        assert (round(100 * low, 1), high) == (75.8, 1.0)


def test_runs_that_all_agree_have_no_interval() -> None:
    """Their mean has a deviation of 0, which says nothing of runs to come."""
    means, spread = over_runs(
        [{"accuracy": 1.0, "roc_auc": 0.5}, {"accuracy": 1.0, "roc_auc": 0.6}], {}
    )
    assert means["accuracy_deviation"] == 0
    assert spread.keys() == {"roc_auc"}


def test_the_area_is_of_the_two_labels_that_were_told_apart() -> None:
    """Whatever their numbers; not of two others that the truth may have."""
    chances = np.array([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    said = Predictions.of_probabilities(chances, np.array([3, 7]))
    found = classification_metrics(np.array([7, 3, 3], np.int32), said, 9)
    assert found["roc_auc"] == 1.0
    assert "roc_auc" not in classification_metrics(np.array([7, 2, 2], np.int32), said, 9)
