"""Every evaluation of every kind of task: metrics that make sense, or a refusal that says why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import UsageError
from fungistore.evaluation.cluster import evaluate_cluster
from fungistore.evaluation.compare import compare_features
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.linear import evaluate_linear
from fungistore.evaluation.metrics import classification_metrics
from fungistore.evaluation.options import (
    ClusterOptions,
    CompareOptions,
    KnnOptions,
    LinearOptions,
    RetrievalOptions,
)
from fungistore.evaluation.ordered import class_order, ranks_of
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.retrieval import evaluate_retrieval
from fungistore.labelling.stage import label
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.searching.search import search
from fungistore.store.store import Store
from fungistore.training.run_folder import CONFIG

TABLES = {"knn": (evaluate_knn, KnnOptions(k=1)), "linear": (evaluate_linear, LinearOptions())}
ALWAYS = {"accuracy", "mean_per_class_accuracy", "balanced_accuracy"}


def store_of(root: Path, train: list[str], test: list[str], val: list[str] | None = None) -> Store:
    """Class centres of their own, so that whatever can be right is."""
    labels = [*train, *test, *(val or [])]
    names = sorted(set(labels))
    vectors = np.eye(len(names) + 1, dtype=np.float32)[[names.index(label) for label in labels]]
    vectors += 0.01 * np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    splits = ["train"] * len(train) + ["test"] * len(test) + ["val"] * len(val or [])
    return make_store(root, {"embeddings": vectors}, labels, splits)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(
    ("train", "test", "more", "accuracy"),
    [
        ("ab" * 6, "ab" * 3, {"roc_auc"}, 1.0),
        ("abc" * 4, "abc" * 2, {"roc_auc"}, 1.0),
        ("ab" * 6, "aaa", set(), 1.0),  # one class to test: a ROC has no second one
        ("ab" * 6, "acac", set(), 0.5),  # two, of which one was never seen
        ("abcdefg" * 3, "abcdefg", {"top5_accuracy", "roc_auc"}, 1.0),
        ("ab", "ab" * 2, {"roc_auc"}, 1.0),  # one row a class
        ("abc", "abc", {"roc_auc"}, 1.0),
    ],
)
def test_a_classifier_has_the_metrics_that_its_task_has(
    tmp_path: Path, kind: str, train: str, test: str, more: set[str], accuracy: float
) -> None:
    """Classes have a ROC-AUC where all that are tested were learnt; many a top-5 accuracy."""
    evaluate, options = TABLES[kind]
    store = store_of(tmp_path / "s", list(train), list(test))
    done = evaluate(store.root, options)
    metrics = done.scores[0].metrics
    assert metrics.keys() == ALWAYS | more
    assert metrics["accuracy"] == pytest.approx(accuracy)
    assert all(metrics[name] == 1 for name in more)


@pytest.mark.parametrize("kind", TABLES)
def test_test_rows_of_classes_that_train_lacks_are_said(tmp_path: Path, kind: str) -> None:
    """They count as wrong, with a word: how many, and of which classes; compare says it too."""
    store = store_of(tmp_path / "s", list("abab"), list("ababcdc"))
    evaluate, options = TABLES[kind]
    said: list[str] = []
    done = evaluate(store.root, options, context=Context(Notices(said)))
    assert done.unseen == done.to_json()["unseen"] == 3
    assert done.scores[0].metrics["accuracy"] == pytest.approx(4 / 7)
    words = "3 of 7 test rows are of classes without training rows (c, d): they count as wrong"
    assert words in said
    said.clear()
    compare_features(store.root, CompareOptions(k=1), context=Context(Notices(said)))
    assert words in said


def test_a_task_with_all_classes_says_nothing(tmp_path: Path) -> None:
    """No row is unseen."""
    store = store_of(tmp_path / "s", list("abab"), list("ab"))
    said: list[str] = []
    assert evaluate_knn(store.root, KnnOptions(k=1), context=Context(Notices(said))).unseen == 0
    assert said == []


def test_a_probe_with_one_row_a_class_takes_the_middle_strength(tmp_path: Path) -> None:
    """Nothing can be held out to choose on; that is said, and in the protocol."""
    store = store_of(tmp_path / "s", list("cab"), list("abc"))
    said: list[str] = []
    options = LinearOptions(strengths=(1e-3, 1e-6, 1e-5))
    (score,) = evaluate_linear(store.root, options, context=Context(Notices(said))).scores
    assert (score.protocol["strength"], score.protocol["validation_rows"]) == (1e-5, 0)
    assert score.protocol["validation_accuracies"] == []
    assert any("one training row" in line and "1e-05" in line for line in said)


def test_a_roc_is_of_the_two_classes_that_were_learnt() -> None:
    """Where the truth has another two, the chances say nothing of them."""
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    said = Predictions.of_probabilities(chances, np.array([0, 2]))
    assert said.columns.tolist() == [0, 2]
    truth = np.array([0, 2, 2], np.int32)
    metrics = classification_metrics(truth, said, 3)
    assert metrics["roc_auc"] == roc_auc_score(truth == 2, chances[:, 1])
    assert "roc_auc" not in classification_metrics(np.array([0, 1, 1], np.int32), said, 3)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["1", "10", "9"], ("1", "9", "10")),
        (["-1", "-2.5", "0"], ("-2.5", "-1", "0")),
        (["grade 10", "grade 2"], ("grade 10", "grade 2")),  # two need no order
        (["grade 10", "grade 2", "grade 3"], ("grade 2", "grade 3", "grade 10")),
        (["grade-10", "grade-2", "grade-1"], ("grade-1", "grade-2", "grade-10")),  # no sign
        (["high", "low", "middle"], None),
        (["1 cat", "2 dogs", "3 eels"], None),
        (["1", "1.0", "2"], None),
        (["1", "2", "two"], None),
    ],
)
def test_classes_that_are_numbers_have_their_order(
    names: list[str], order: tuple[str, ...] | None
) -> None:
    """Not that of the alphabet; words have none."""
    assert class_order(names, None) == order


def test_a_kappa_weighs_errors_by_the_order_of_the_classes(tmp_path: Path) -> None:
    """An error from 1 to 10 weighs more than one from 9 to 10, and the order is said."""
    names = ["1", "10", "9"]
    ranks = ranks_of(names, ("1", "9", "10"))
    assert ranks.tolist() == [0, 2, 1]
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)
    predicted = np.array([0, 2, 1, 2, 1, 1, 2, 2], np.int32)
    metrics = classification_metrics(truth, Predictions(predicted[:, None]), 3, ranks)
    numbers = np.array([1, 3, 2])  # what the names stand for, ranked
    expected = cohen_kappa_score(numbers[truth], numbers[predicted], weights="quadratic")
    assert metrics["quadratic_kappa"] == pytest.approx(expected)
    assert expected != pytest.approx(cohen_kappa_score(truth, predicted, weights="quadratic"))
    linear = cohen_kappa_score(numbers[truth], numbers[predicted], weights="linear")
    assert expected != pytest.approx(linear)
    store = store_of(tmp_path / "s", names * 4, names)
    said: list[str] = []
    done = evaluate_knn(store.root, KnnOptions(k=1, kappa=True), context=Context(Notices(said)))
    assert "quadratic kappa with the classes as 1 < 9 < 10" in said
    assert done.protocol["order"] == ["1", "9", "10"]
    assert done.scores[0].metrics["quadratic_kappa"] == 1


def test_a_kappa_of_words_needs_their_order(tmp_path: Path) -> None:
    """It is refused without, and with names that are not the classes."""
    store = store_of(tmp_path / "s", ["low", "mid", "high"] * 3, ["low", "mid", "high"])
    with pytest.raises(UsageError, match="ordered classes only") as caught:
        evaluate_knn(store.root, KnnOptions(k=1, kappa=True))
    assert "--order" in str(caught.value)
    with pytest.raises(UsageError, match="not of these classes"):
        evaluate_knn(store.root, KnnOptions(k=1, order=("low", "high")))
    command = ["eval", "knn", str(store.root), "--k", "1", "--order", "low,mid,high", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["quadratic_kappa"] == 1


def test_one_class_to_test_has_no_kappa(tmp_path: Path) -> None:
    """Nothing is divided by zero."""
    store = store_of(tmp_path / "s", list("123" * 3), list("11"))
    (score,) = evaluate_knn(store.root, KnnOptions(k=1, kappa=True)).scores
    assert score.metrics.keys() == ALWAYS


HEAD = {"head": "linear", "epochs": 1, "name": "h", "device": "cpu"}


@pytest.mark.parametrize(
    ("classes", "val", "settings", "works"),
    [
        ("ab", "ab", {"metric": "roc_auc"}, True),
        ("abc", "abc", {"metric": "roc_auc"}, True),
        ("abc", "aa", {"metric": "roc_auc"}, False),
        ("ab", "aa", {"metric": "roc_auc"}, False),
        ("ab", "ab", {"metric": "quadratic_kappa"}, True),
        ("abc", "abc", {"metric": "quadratic_kappa"}, False),
        ("abc", "abc", {"metric": "quadratic_kappa", "order": ("c", "a", "b")}, True),
        ("123", "123", {"metric": "quadratic_kappa"}, True),
        ("123", "11", {"metric": "quadratic_kappa"}, False),
        ("abc", "abc", {"order": ("c", "a")}, False),
        ("abc", "aa", {"metric": "accuracy"}, True),
        ("abc", "aa", {"metric": "mean_per_class_accuracy"}, True),
    ],
)
def test_a_head_is_refused_a_metric_that_its_rows_do_not_have(
    tmp_path: Path, classes: str, val: str, settings: dict[str, object], works: bool
) -> None:
    """Before anything is frozen: the same name trains with another metric afterwards."""
    store = store_of(tmp_path / "s", list(classes * 4), list(classes), list(val))
    options = TrainOptions(**HEAD, **settings)  # type: ignore[arg-type]
    if not works:
        with pytest.raises(UsageError, match=r"--metric|--order"):
            train_loff(store.root, options)
        assert not store.folder("heads", "set", "h").has(CONFIG)
        options = TrainOptions(**HEAD)  # type: ignore[arg-type]
    done = train_loff(store.root, options)
    assert options.metric in done.validation
    metrics = evaluate_loff(store.root, LoffOptions()).scores[0].metrics
    assert "roc_auc" in metrics
    is_ordered = options.order is not None or options.metric == "quadratic_kappa"
    assert ("quadratic_kappa" in metrics) == is_ordered


@pytest.mark.parametrize("names", [["cat", "dog"], ["0", "1", "2"], ["n01440764", "n01443537"]])
@pytest.mark.parametrize("is_asked", [False, True])
def test_no_kappa_is_given_unasked(tmp_path: Path, names: list[str], is_asked: bool) -> None:
    """Two animals, digits and ids of WordNet have names that sort, and no order: neither a table,
    nor the log of a training, nor a test of the head has a kappa, unless somebody asks for it."""
    store = store_of(tmp_path / "s", names * 4, names, names)
    order = tuple(names) if is_asked else None
    train_loff(store.root, TrainOptions(**HEAD, order=order))  # type: ignore[arg-type]
    evaluate_loff(store.root, LoffOptions()).save(Context(Notices([])))
    for evaluate, options in (
        (evaluate_knn, KnnOptions(k=1, order=order)),
        (evaluate_linear, LinearOptions(order=order)),
        (compare_features, CompareOptions(k=1)),
    ):
        evaluate(store.root, options).save(Context(Notices([])))
    run = store.root / "heads" / "set" / "h"
    written = {path.name: path.read_text() for path in [*(store.root / "evals").iterdir()]}
    written |= {name: (run / name).read_text() for name in ("log.jsonl", "state.json")}
    assert len(written) == 6
    for name, text in written.items():
        assert ('"quadratic_kappa"' in text) == (is_asked and not name.startswith("compare")), name


def test_clusters_of_one_class_are_refused_and_of_single_rows_are_not(tmp_path: Path) -> None:
    """A class for each row is one cluster for each."""
    one = store_of(tmp_path / "one", list("aaaa"), list("a"))
    with pytest.raises(UsageError, match="too few"):
        evaluate_cluster(one.root)
    single = store_of(tmp_path / "single", list("abc"), list("def"))
    (score,) = evaluate_cluster(single.root).scores
    assert score.metrics["matched_accuracy"] == 1


def test_a_holdout_of_single_rows_names_the_cause(tmp_path: Path) -> None:
    """Not that features are missing."""
    store = make_store(tmp_path / "s", {"embeddings": clustered(6, 6, 3)[0]}, list("abcdef"))
    with pytest.raises(UsageError, match="no class can be divided"):
        evaluate_knn(store.root, KnnOptions(holdout=0.5))


@pytest.mark.parametrize(
    ("evaluate", "options"),
    [
        (evaluate_knn, LinearOptions()),
        (evaluate_linear, KnnOptions()),
        (evaluate_cluster, KnnOptions()),
        (evaluate_retrieval, ClusterOptions()),
        (compare_features, RetrievalOptions()),
        (evaluate_loff, CompareOptions()),
    ],
)
def test_the_options_of_another_evaluation_are_refused(tmp_path: Path, evaluate, options) -> None:
    """With both names, before the store is looked at."""
    with pytest.raises(UsageError, match="something else") as caught:
        evaluate(tmp_path, options)
    assert type(options).__name__ in str(caught.value)


def test_a_retrieval_takes_so_many_queries_unless_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the seed, and said; the time is told where it is long."""
    monkeypatch.setattr("fungistore.evaluation.retrieval.QUERIES", 8)
    monkeypatch.setattr("fungistore.evaluation.retrieval.LONG_SECONDS", 0.0)
    vectors, labels = clustered(30, 3, 5)
    store = make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    said: list[str] = []
    done = evaluate_retrieval(store.root, context=Context(Notices(said)))
    chosen = {name: done.protocol[name] for name in ("queries", "of_queries", "seed")}
    assert chosen == {"queries": 8, "of_queries": 30, "seed": 0}
    assert done.scores[0].n_test == 8
    assert "8 of 30 queries, chosen by the seed 0; --queries 30 takes all" in said
    assert any(line.startswith("about 0 s for 8 queries of 30 images") for line in said)
    asked = evaluate_retrieval(store.root, RetrievalOptions(queries=8))
    assert asked.scores == done.scores
    assert evaluate_retrieval(store.root, RetrievalOptions(queries=30)).scores[0].n_test == 30


def test_one_query_may_be_given_by_itself(tmp_path: Path) -> None:
    """A str is one query, and not a list of letters."""
    from fungistore.indexing.build import build_index

    vectors, labels = clustered(30, 3, 5)
    store = make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    build_index(store.root)
    (answer,) = search(store.root, "000003.jpg").answers
    assert answer.query == "000003.jpg"


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("names", ["12", "1234"])
def test_classes_that_no_row_has_any_more_are_none(tmp_path: Path, kind: str, names: str) -> None:
    """Labels that got other names give the metrics of a store that never had the old ones."""
    evaluate, options = TABLES[kind]
    vectors, _ = clustered(40, len(names), 8, noise=2.0)
    labels = [names[row % len(names)] for row in range(40)]
    splits = ["test" if row % 3 == 0 else "train" for row in range(40)]
    fresh = make_store(tmp_path / "new.fungi", {"embeddings": vectors}, labels, splits)
    old = [f"grade {name}{name}, by hand" for name in labels[:-1]] + ["none"]
    store = make_store(tmp_path / "old.fungi", {"embeddings": vectors}, old, splits)
    rows = zip(store.samples.ids(), labels, strict=True)
    (tmp_path / "t.csv").write_text("id,label\n" + "".join(f"{i},{name}\n" for i, name in rows))
    label(store.root, tmp_path / "t.csv")
    asked = replace(options, kappa=True)
    expected = evaluate(fresh.root, asked).scores[0].metrics
    assert evaluate(store.root, asked).scores[0].metrics == pytest.approx(expected)
    assert {"quadratic_kappa", *(["roc_auc"] if len(names) == 2 else [])} <= expected.keys()
