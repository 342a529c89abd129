"""`fungi eval segment`: the scores of a bank are those of the protocol, written out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from plain_protocol import PlainBank, plain_miou, resized
from scene_world import SIDE
from typer.testing import CliRunner

import fungistore as fungi
from fungistore.annotations.masks import open_masks
from fungistore.errors import UsageError
from fungistore.randomness import Stream
from fungistore.segmentation import evaluate
from fungistore.segmentation.banks import open_bank
from fungistore.segmentation.evaluate import SegmentationEvaluation
from fungistore.store.store import Store

TRAIN, TEST = np.arange(6), np.arange(6, 9)
OWN = fungi.SegmentationOptions(banks=("all",), k=5, beta=0.1, size="own")


def plain(store: Store, rows: np.ndarray, size: int | None, k: int = 5, beta: float = 0.1) -> float:
    """The mIoU of the oracle."""
    bank, masks = PlainBank(store, rows, SIDE), open_masks(store)
    pairs = []
    for row in TEST.tolist():
        truth = masks.read(row)
        truth = truth if size is None else resized(truth, size, size)
        pairs.append((truth, bank.predict(row, *truth.shape, k, beta)))
    return plain_miou(pairs, bank.classes)


def test_scores_are_those_of_plain_numpy(scenes: Store) -> None:
    """The whole protocol, number for number: at the masks' own size, and at one of ours."""
    own = fungi.evaluate_segmentation(scenes.root, OWN)
    assert own.scores[0].metrics["miou"] == pytest.approx(plain(scenes, TRAIN, None), abs=1e-12)
    low, high = own.scores[0].spread["miou"]
    assert low < own.scores[0].metrics["miou"] < high
    assert own.excluded == {"rows without a mask": 1}
    assert (own.scores[0].n_train, own.scores[0].n_test) == (6, 3)
    assert [one.name for one in own.classes] == list(open_masks(scenes).classes)
    other = fungi.evaluate_segmentation(scenes.root, replace(OWN, size=24, k=9, beta=0.02))
    expected = plain(scenes, TRAIN, 24, 9, 0.02)
    assert other.scores[0].metrics["miou"] == pytest.approx(expected, abs=1e-12)


def test_shots_are_random_images_of_the_bank(scenes: Store) -> None:
    """The mean over the seeds, and its deviation, of banks of two images each."""
    done = fungi.evaluate_segmentation(scenes.root, replace(OWN, shots=2, seeds=3))
    rows = open_bank(scenes, "all").rows
    chosen = [np.sort(rows[Stream(seed, "shots").choice(len(rows), 2)]) for seed in range(3)]
    expected = [plain(scenes, few, None) for few in chosen]
    metrics = done.scores[0].metrics
    assert metrics["miou"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert metrics["miou_deviation"] == pytest.approx(np.std(expected, ddof=1), abs=1e-12)
    assert done.scores[0].n_train == 2
    assert done.protocol["seeds"] == [0, 1, 2]


def test_several_banks_are_compared_on_the_same_images(scenes: Store) -> None:
    """The second one's gain is the difference, with an interval of its own."""
    done = fungi.evaluate_segmentation(scenes.root, replace(OWN, banks=("all", "few")))
    first, second = done.scores
    gain = second.metrics["miou"] - first.metrics["miou"]
    assert second.metrics["gain_over_first"] == pytest.approx(gain)
    assert "gain_over_first" not in first.metrics
    low, high = second.spread["gain_over_first"]
    assert low <= gain <= high
    assert [score.protocol["bank"] for score in done.scores] == ["all", "few"]
    assert all(len(one.iou) == 2 for one in done.classes)


def test_the_command_saves_what_it_prints(scenes: Store) -> None:
    """As JSON, under evals/, with the fingerprints; and as a table with a line a class."""
    run = CliRunner().invoke
    words = ["eval", "segment", str(scenes.root), "--k", "5", "--bank", "all"]
    done = run(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    saved = json.loads(Path(document["saved"]).read_text())
    assert saved["scores"] == document["scores"]
    assert saved["scores"][0]["fingerprints"]
    assert document["protocol"]["size"] == [512, 512]
    shown = run(app, words)
    assert "<b>tree</b>" in shown.stdout
    matched = run(app, [*words, "--match", "hungarian", "--json"])
    assert json.loads(matched.stdout)["metrics"]["miou"] >= document["metrics"]["miou"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shots": 7}, "at most 6 images of bank"),
        ({"k": 400}, "no more than the"),
        ({"banks": ("none",)}, "none"),
    ],
)
def test_what_a_bank_does_not_have_is_refused(scenes: Store, settings, words: str) -> None:
    """More images or neighbours than it has, and a bank that is not there."""
    with pytest.raises(UsageError) as caught:
        fungi.evaluate_segmentation(scenes.root, replace(OWN, **settings))
    assert words in str(caught.value)


def test_settings_that_say_nothing_together_are_refused() -> None:
    """Seeds without shots, and a bank twice."""
    for settings in ({"seeds": 2}, {"banks": ("a", "a")}):
        with pytest.raises(UsageError):
            fungi.SegmentationOptions(**{"banks": ("all",)} | settings)


def test_very_many_classes_are_shown_by_their_ends(
    scenes: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has the best and the worst, and says how many it leaves out."""
    monkeypatch.setattr(evaluate, "CLASSES_SHOWN", 2)
    done = fungi.evaluate_segmentation(scenes.root, OWN)
    assert isinstance(done, SegmentationEvaluation)
    (table,) = done.details()
    assert len(table.rows) == 3
    assert table.rows[1][0] == "... 2 more (--json has them)"
