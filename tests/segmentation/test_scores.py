"""Scores of masks, against definitions written out and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from fungistore.annotations.masks import VOID
from fungistore.segmentation.scores import (
    confusion_of,
    interval_of,
    mask_scores,
    parts_of,
    resampled_miou,
)

GOLDEN = [(0, 0, 0, 1, 1, 2, 2, 2), (0, 0, 1, 1, 1, 2, 0, 2), (1, 1, 1, 0, 0, 2, 2, 2)]
TRUTH, NEAR, RENAMED = (np.array([one], np.uint16) for one in GOLDEN)


@pytest.mark.parametrize(
    ("said", "match", "expected"),
    [
        (NEAR, "direct", 0.611111),
        (RENAMED, "hungarian", 1.0),
        (RENAMED, "direct", 0.333333),
        (NEAR, "hungarian", 0.611111),
    ],
)
def test_the_reference_code_gives_the_same_miou(said, match, expected) -> None:
    """On the numbers that FUNGI's reference code was run on."""
    scores = mask_scores(confusion_of(TRUTH, said, 3), match)
    assert scores.metrics["miou"] == pytest.approx(expected, abs=1e-6)


def test_scores_are_those_of_scikit_learn() -> None:
    """Of each class and their mean; void pixels and classes that occur nowhere do not count."""
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 5, VOID], (20, 30)).astype(np.uint16)
    said = random.choice([0, 1, 2, 4], (20, 30)).astype(np.uint16)
    scores = mask_scores(confusion_of(truth, said, 7))
    kept = truth != VOID
    occurring = [0, 1, 2, 4, 5]
    each = jaccard_score(truth[kept], said[kept], labels=occurring, average=None, zero_division=0)
    np.testing.assert_allclose(scores.iou[occurring], each)
    assert np.isnan(scores.iou[[3, 6]]).all()
    assert scores.metrics["miou"] == pytest.approx(each.mean())
    assert scores.metrics["pixel_accuracy"] == pytest.approx((truth == said)[kept].mean())
    share = np.array([(truth[kept] == label).mean() for label in occurring])
    assert scores.metrics["frequency_weighted_iou"] == pytest.approx(share @ each)
    recall = [(said[truth == label] == label).mean() for label in (0, 1, 2, 5)]
    assert scores.metrics["mean_class_accuracy"] == pytest.approx(np.mean(recall))


def test_matched_classes_without_a_partner_count_as_missed() -> None:
    """Of two true classes and three predicted ones the third has no partner: IoU 0."""
    truth = np.array([[0, 0, 0, 4, 4, 4]], np.uint16)
    said = np.array([[2, 2, 1, 3, 3, 3]], np.uint16)
    scores = mask_scores(confusion_of(truth, said, 5), "hungarian")
    assert scores.metrics["miou"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    np.testing.assert_allclose(scores.iou[[0, 4]], [2 / 3, 1])


def test_nothing_to_judge_is_no_number() -> None:
    """Of masks that are void everywhere."""
    void = np.full((2, 2), VOID, np.uint16)
    for match in ("direct", "hungarian"):
        scores = mask_scores(confusion_of(void, np.zeros((2, 2), np.uint16), 3), match)  # type: ignore[arg-type]
        assert np.isnan(list(scores.metrics.values())).all()


def test_the_interval_is_that_of_images_drawn_again() -> None:
    """It holds the score, is narrow for images that are alike, and is the same each time."""
    random = np.random.default_rng(1)
    tables = [random.integers(0, 50, (3, 3)) + 100 * np.eye(3, dtype=np.int64) for _ in range(40)]
    values = resampled_miou([parts_of(one) for one in tables], 0)
    low, high = interval_of(values)
    score = mask_scores(np.sum(tables, axis=0)).metrics["miou"]
    assert low < score < high < low + 0.1
    assert (values == resampled_miou([parts_of(one) for one in tables], 0)).all()
    alike = interval_of(resampled_miou([parts_of(tables[0])] * 5, 0))
    assert alike == pytest.approx([mask_scores(tables[0]).metrics["miou"]] * 2)
