"""Few-shot evaluations: which rows are shots, what is learnt from them, and a curve of several."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fungi_cli.main import app
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

import fungistore as fungi
from feature_world import Notices, clustered, make_store
from fungistore.errors import UsageError
from fungistore.evaluation.curve import draw_curve
from fungistore.evaluation.runs import TableRuns
from fungistore.evaluation.shots import choose_shots
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.matrices.splits import stratified_holdout
from fungistore.store.store import Store

ROWS, CLASSES = 300, 3
TEST = ["test" if row % 5 == 0 else "train" for row in range(ROWS)]
VAL = [["train", "train", "val", "test", "train"][row % 5] for row in range(ROWS)]


def store_of(root: Path, splits: list[str] | None, labels: list[str | None] | None = None) -> Path:
    vectors, names = clustered(ROWS, CLASSES, 10, noise=3.0)
    return make_store(root, {"embeddings": vectors}, labels or names, splits).root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With rows to test on, and no split val."""
    return store_of(tmp_path_factory.mktemp("shots") / "s.fungi", TEST)


def rows_of(store: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row numbers, vectors and labels of a split."""
    opened = Store.open(store)
    _, vectors = open_features(opened).load()
    rows = opened.samples.splits()[split]
    return rows, vectors[rows], opened.samples.labels()[rows]


@pytest.mark.parametrize("rule", ["random", "first"])
@pytest.mark.parametrize("seed", [0, 1, 42])
def test_few_shots_are_among_more_of_the_same_seed(rule: Any, seed: int) -> None:
    """Of classes of any size, so that a curve adds rows and changes none."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.3, 200), 6).astype(np.int32)
    rows = np.flatnonzero(random.random(200) < 0.7)
    sizes = np.bincount(labels[rows])
    before = np.zeros(0, np.int64)
    for shots in (1, 2, 4, 8, 16, 500):
        chosen = choose_shots(rows, labels, shots, rule, seed)
        assert np.isin(before, chosen).all()
        assert np.isin(chosen, rows).all()
        assert (np.diff(chosen) > 0).all()
        assert np.bincount(labels[chosen]).tolist() == np.minimum(sizes, shots).tolist()
        before = chosen
    assert before.tolist() == rows.tolist()


@pytest.mark.parametrize("rule", ["random", "first"])
def test_a_curve_is_scikit_learns_on_the_shots_of_each_number(store: Path, rule: Any) -> None:
    """A row each, in the order asked for; a number has the score that it has alone."""
    options = fungi.KnnOptions(k=3, shots=(1, 4, 16, "all"), shot_rule=rule, split_seed=3)
    done = options.evaluate(store)
    train, known, labels = rows_of(store, "train")
    _, test, truth = rows_of(store, "test")
    every = Store.open(store).samples.labels()
    for score, shots in zip(done.scores, options.shots, strict=True):
        assert score.protocol["shots"] == shots
        few = train if shots == "all" else choose_shots(train, every, shots, rule, 3)
        at = np.searchsorted(train, few)
        oracle = KNeighborsClassifier(3).fit(known[at], labels[at])
        assert score.metrics["accuracy"] == oracle.score(test, truth)
        assert score.n_train == len(few)
        (alone,) = replace(options, shots=(shots,)).evaluate(store).scores
        assert (alone.metrics, alone.spread) == (score.metrics, score.spread)
        assert "shots" not in alone.protocol
    assert done.protocol["shots"] == [1, 4, 16, "all"]
    assert done.protocol["shot_rule"] == rule


def test_combinations_and_widths_have_a_curve_each(tmp_path: Path) -> None:
    """The PCA is fitted on the shots; a combination is compared with the first of as many shots."""
    vectors, labels = clustered(ROWS, CLASSES, 10, noise=3.0)
    arrays = {"embeddings": vectors, "gradients/kl": -vectors}
    make_store(tmp_path / "s", arrays, labels, TEST)
    options = fungi.KnnOptions(
        k=1, shots=(1, 8), combinations="nested", pca_dims=(None, 5), split_seed=1
    )
    scores = options.evaluate(tmp_path / "s").scores
    found = [(len(s.features), s.dim, s.protocol["shots"], s.n_train) for s in scores]
    assert found == [
        *((1, 10, 1, 3), (1, 10, 8, 24), (1, 10, 1, 3), (1, 5, 8, 24)),
        *((2, 20, 1, 3), (2, 20, 8, 24), (2, 20, 1, 3), (2, 5, 8, 24)),
    ]
    for first, others in ((scores[0], scores[2::2]), (scores[1], scores[3::2])):
        assert first.difference is None
        for score in others:
            apart = score.metrics["accuracy"] - first.metrics["accuracy"]
            assert score.difference.value == pytest.approx(apart)


@pytest.mark.parametrize("splits", [TEST, VAL])
@pytest.mark.parametrize("shots", [1, 4])
def test_a_few_shot_probe_is_fitted_on_the_shots_alone(
    tmp_path: Path, splits: list[str], shots: int
) -> None:
    """Its strength is chosen on the split val, or on a fifth of each class of the other rows."""
    root = store_of(tmp_path / "s", splits)
    options = fungi.LinearOptions(shots=shots, split_seed=2)
    (score,) = options.evaluate(root).scores
    train, known, labels = rows_of(root, "train")
    _, test, truth = rows_of(root, "test")
    every = Store.open(root).samples.labels()
    at = np.searchsorted(train, choose_shots(train, every, shots, "random", 2))
    assert score.n_train == len(at) == shots * CLASSES
    runs = TableRuns(root, options)
    task = runs.task(shots, options.runs[0])
    assert task.split.train.tolist() == train[at].tolist()
    assert sorted([*task.spare, *task.split.train]) == train.tolist()
    _, others = stratified_holdout(task.spare, every, 0.2, 2, "validation")
    held = np.flatnonzero(np.array(splits) == "val") if splits is VAL else others
    assert (
        score.protocol["validation_rows"]
        == len(held)
        == (60 if splits is VAL else CLASSES * round((80 - shots) / 5))
    )
    assert not np.isin(held, [*task.split.train, *task.split.test]).any()
    _, unknown = open_features(Store.open(root)).load(held)

    def fitted(strength: float) -> LogisticRegression:
        weight = 1 / (strength * len(at))
        probe = LogisticRegression(C=weight, fit_intercept=False, tol=1e-5, max_iter=300)
        return probe.fit(known[at].astype(np.float64), labels[at])

    accuracies = [fitted(one).score(unknown, every[held]) for one in options.strengths]
    assert score.protocol["validation_accuracies"] == accuracies
    best = options.strengths[int(np.argmax(accuracies))]
    assert score.protocol["strength"] == best
    assert score.metrics["accuracy"] == fitted(best).score(test, truth)


def test_where_all_rows_are_shots_the_probe_is_that_of_all_rows(store: Path) -> None:
    """A fifth of the shots chooses the strength, as a fifth of train does."""
    every, few = fungi.LinearOptions(shots=("all", 999)).evaluate(store).scores
    assert few.metrics == every.metrics
    assert few.protocol["validation_accuracies"] == every.protocol["validation_accuracies"]


def test_others_of_one_class_alone_choose_no_strength(tmp_path: Path) -> None:
    """They would choose what says that class always; the shots are divided instead."""
    names = [f"class {0 if row > 24 else row % CLASSES}" for row in range(ROWS)]
    root = store_of(tmp_path / "s", TEST, names)
    (score,) = fungi.LinearOptions(shots=8).evaluate(root).scores
    sizes = np.minimum(np.unique(rows_of(root, "train")[2], return_counts=True)[1], 8)
    assert score.protocol["validation_rows"] == np.rint(sizes / 5).sum()


def test_one_row_a_class_and_no_others_take_the_middle_strength(tmp_path: Path) -> None:
    """There is nothing to choose on, which is said."""
    splits = ["train" if row < CLASSES else "test" for row in range(ROWS)]
    said: list[str] = []
    root, context = store_of(tmp_path / "s", splits), Context(Notices(said))
    (score,) = fungi.LinearOptions(shots=2).evaluate(root, context=context).scores
    assert score.protocol["strength"] == 2.525e-4
    assert any("the middle one" in text for text in said)
    assert any("--shots 2: 3 of 3 classes have fewer" in text for text in said)


@pytest.mark.parametrize(
    ("shots", "rule", "what"),
    [
        (81, "random", "--shots 81: 3 of 3 classes have fewer training rows"),
        (81, "first", "--shots 81: 3 of 3 classes have fewer training rows"),
        (81, "proportional", "--shots 81: 243 rows are asked for, and all 240 are taken"),
        (80, "random", None),
        (80, "proportional", None),
    ],
)
def test_classes_of_fewer_rows_than_shots_are_said(
    store: Path, shots: int, rule: Any, what: str | None
) -> None:
    """All of their rows are taken."""
    said: list[str] = []
    options = fungi.KnnOptions(shots=shots, shot_rule=rule)
    (score,) = options.evaluate(store, context=Context(Notices(said))).scores
    assert score.n_train == 240
    assert [text for text in said if "--shots" in text] == ([] if what is None else said)
    assert what is None or what in said[0]


def test_what_no_probe_learns_from_is_refused_before_any_run(tmp_path: Path) -> None:
    """Proportional shots of one class."""
    names = ["rare" if row in (1, 2, 3) else "common" for row in range(ROWS)]
    root = store_of(tmp_path / "s", TEST, names)
    with pytest.raises(UsageError, match="all shots are of one class") as caught:
        fungi.LinearOptions(shots=1, shot_rule="proportional").evaluate(root)
    assert "--shot-rule random" in str(caught.value.hint)


def test_a_seed_may_be_any_number(store: Path) -> None:
    """Also of the proportional rule, which scikit-learn draws: it takes 32 bits."""
    rows, _, _ = rows_of(store, "train")
    labels = Store.open(store).samples.labels()
    drawn = [choose_shots(rows, labels, 2, "proportional", seed) for seed in (-1, 2**32 - 1, 7)]
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()


@pytest.mark.parametrize("shots", [(5, 5), ("all", "all"), (), (0,), "1,none"])
def test_shots_are_numbers_that_differ(shots: Any) -> None:
    with pytest.raises(UsageError, match="--shots"):
        fungi.KnnOptions(shots=shots)


def test_shots_are_given_as_one_number_or_several(tmp_path: Path) -> None:
    """From Python, a file and the shell."""
    assert fungi.KnnOptions(shots=5).shots == (5,)  # type: ignore[arg-type]
    assert fungi.LinearOptions.from_config({"shots": [1, "all"]}).shots == (1, "all")
    assert fungi.KnnOptions.from_config({"shots": "2,all"}).shots == (2, "all")
    assert fungi.KnnOptions().to_config()["shots"] == ["all"]


def test_a_curve_can_be_drawn(store: Path, tmp_path: Path) -> None:
    """A line for each combination, with its points and bars; what cannot be drawn is refused."""
    said: list[str] = []
    options = fungi.KnnOptions(k=1, shots=(1, 4), split_seeds=2, plot=tmp_path / "c.svg")
    done = options.evaluate(store, context=Context(Notices(said)))
    ElementTree.parse(tmp_path / "c.svg")
    assert f"plot: {tmp_path / 'c.svg'}" in said
    (axes,) = draw_curve(done).axes
    ((line, _, (bars,)),) = axes.containers
    points = [100 * score.metrics["accuracy"] for score in done.scores]
    assert line.get_ydata().tolist() == points
    deviations = [100 * score.metrics["accuracy_deviation"] for score in done.scores]
    for (low, high), point, deviation in zip(
        (segment[:, 1] for segment in bars.get_segments()), points, deviations, strict=True
    ):
        assert (high - point, point - low) == pytest.approx((deviation, deviation))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    alone = draw_curve(replace(options, plot=None, split_seeds=None).evaluate(store)).axes[0]
    assert len(alone.containers) == 1
    agreeing = replace(
        done.scores[0], metrics={"accuracy": 0.9, "accuracy_deviation": 0.0}, spread={}
    )
    flat = draw_curve(replace(done, scores=(agreeing,) * 2)).axes[0].containers[0][2][0]
    assert [segment[:, 1].tolist() for segment in flat.get_segments()] == [[90, 90]] * 2
    with pytest.raises(UsageError, match="several --shots"):
        fungi.KnnOptions(shots=(5,), plot=tmp_path / "c.svg")
    with pytest.raises(UsageError, match="format"):
        replace(options, plot=tmp_path / "c.docx").evaluate(store)


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_the_command_prints_and_replays_a_curve(store: Path, tmp_path: Path, kind: str) -> None:
    """A row for each number of shots; the file of its settings gives the same."""
    own = {"k": 1} if kind == "knn" else {"strengths": 1e-3}
    flags = ["--holdout", "0.3", "--shots", "1,2,all", "--split-seeds", "2"]
    flags += [word for name, value in own.items() for word in (f"--{name}", str(value))]
    shown = CliRunner().invoke(app, ["eval", kind, str(store), *flags])
    assert shown.exit_code == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0][:3] == ["shots", "features", "dim"]
    assert [line[0] for line in lines[1:]] == ["1", "2", "all"]
    asked = {"holdout": 0.3, "shots": [1, 2, "all"], "split-seeds": 2} | own
    (tmp_path / "c.json").write_text(json.dumps(asked))
    printed = [
        json.loads(CliRunner().invoke(app, ["eval", kind, str(store), *given, "--json"]).stdout)
        for given in (flags, ["--config", str(tmp_path / "c.json")])
    ]
    assert printed[0] == printed[1]
    assert [score["protocol"]["shots"] for score in printed[0]["scores"]] == [1, 2, "all"]
