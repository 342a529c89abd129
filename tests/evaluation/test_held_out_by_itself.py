"""A store without test rows: every evaluation holds some out by itself, and says so everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import UsageError
from fungistore.evaluation.compare import compare_features
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.linear import evaluate_linear
from fungistore.evaluation.options import CompareOptions, KnnOptions, LinearOptions
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.store.store import Store

SAID = (
    "the store has no splits: 20% of each class, chosen by the seed 0, are held out to test on; "
    "--holdout takes another part"
)
HELD = {"from": "all", "holdout": 0.2, "seed": 0}
BECAUSE = {"because": "the store has no splits"}
KINDS: dict[str, tuple[Callable[..., Any], type[Any], dict[str, Any]]] = {
    "knn": (evaluate_knn, KnnOptions, {"k": 3}),
    "linear": (evaluate_linear, LinearOptions, {}),
    "compare": (compare_features, CompareOptions, {"k": 3}),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Forty rows of two classes, and no splits."""
    vectors, labels = clustered(40, 2, 6, noise=1.0)
    return make_store(tmp_path / "s.fungi", {"embeddings": vectors}, [f"c{n}" for n in labels])


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_needs_no_splits(store: Store, kind: str) -> None:
    """It says what it holds out and why, in a notice and its protocol; the scores are those of
    --holdout 0.2, which is not remarked on."""
    evaluate, options, settings = KINDS[kind]
    heard: list[str] = []
    silent: list[str] = []
    done = evaluate(store.root, options(**settings), context=Context(Notices(heard)))
    asked = evaluate(store.root, options(**settings, holdout=0.2), context=Context(Notices(silent)))
    assert heard.count(SAID) == 1
    assert SAID not in silent
    assert done.protocol["split"] == HELD | BECAUSE
    assert asked.protocol["split"] == HELD
    assert done.scores == asked.scores
    assert done.to_json()["n_test"] == 8


def test_a_head_needs_no_splits(store: Store) -> None:
    """Training and testing agree on the rows that are held out, and both say so."""
    heard: list[str] = []
    tested: list[str] = []
    settings = TrainOptions(head="linear", epochs=2, name="h", batch_size=8, device="cpu")
    done = train_loff(store.root, settings, context=Context(Notices(heard)))
    assert (heard.count(SAID), done.n_train + done.n_validation) == (1, 32)
    assert done.to_json()["split"].items() >= (HELD | BECAUSE).items()
    again = train_loff(store.root, settings)  # the same head: nothing to do
    assert (again.images_per_second, again.fingerprint) == (0.0, done.fingerprint)
    found = evaluate_loff(store.root, LoffOptions(device="cpu"), context=Context(Notices(tested)))
    assert tested.count(SAID) == 1
    assert found.scores[0].n_test == 8
    assert found.protocol["splits"]["h"].items() >= (HELD | BECAUSE).items()


def test_seeds_hold_out_other_rows(store: Store) -> None:
    """Over several seeds the held-out rows differ, as with --holdout."""
    several = evaluate_linear(store.root, LinearOptions(seeds=3))
    asked = evaluate_linear(store.root, LinearOptions(seeds=3, holdout=0.2))
    assert several.scores == asked.scores
    assert several.scores[0].metrics != evaluate_linear(store.root).scores[0].metrics
    several = evaluate_knn(store.root, KnnOptions(k=3, seeds=3))
    assert several.scores == evaluate_knn(store.root, KnnOptions(k=3, seeds=3, holdout=0.2)).scores


def test_the_command_line_says_it(store: Store) -> None:
    """`fungi eval knn STORE` needs no more than a store; the saved result has the reason."""
    done = CliRunner().invoke(app, ["eval", "knn", str(store.root), "--k", "3", "--json"])
    assert done.exit_code == 0, done.stderr
    assert SAID in done.stderr
    document = json.loads(done.stdout)
    assert document["protocol"]["split"] == HELD | BECAUSE
    saved = json.loads(Path(document["saved"]).read_text())
    assert saved["protocol"]["split"] == HELD | BECAUSE


@pytest.mark.parametrize(
    ("labels", "k", "words"),
    [
        (["one"] * 20, 3, "all training rows are of one class"),
        ([f"c{number}" for number in range(20)], 3, "no class can be divided: each has one row"),
        ([None] * 20, 3, "the samples have no labels"),
    ],
)
def test_what_cannot_be_divided_is_explained(
    tmp_path: Path, labels: list[str | None], k: int, words: str
) -> None:
    """Stores that are too small or of one class are refused for that, not for want of splits."""
    vectors = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    made = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    with pytest.raises(UsageError, match=words) as caught:
        evaluate_knn(made.root, KnnOptions(k=k))
    assert "splits" not in str(caught.value.expected)
