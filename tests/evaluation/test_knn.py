"""Nearest-neighbour evaluation predicts what scikit-learn predicts, and keeps test rows apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fungi_cli.main import app
from sklearn.decomposition import PCA
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation import task
from fungistore.evaluation.knn import evaluate_knn, vote
from fungistore.evaluation.neighbour_count import say_votes
from fungistore.evaluation.options import KnnOptions
from fungistore.evaluation.shots import choose_shots
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.matrices.splits import choose_split
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.documents import sealed
from fungistore.store.store import Store

ROWS = 400


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path / "s.fungi", classes=7)


def store_of(root, classes, noise=3.0, **changes):
    vectors, labels = clustered(ROWS, classes, 10, noise=noise)
    other, _ = clustered(ROWS, classes, 10, seed=1, noise=noise)
    splits = ["test" if row % 5 == 0 else "train" for row in range(ROWS)]
    return make_store(
        root,
        {"embeddings": vectors, "gradients/kl": other} | changes,
        labels,
        splits,
        unit_rows=128,
    )


def data(store, features=None):
    """Return train and test vectors and labels by the store's split."""
    _, vectors = open_features(store, features).load()
    labels = store.samples.labels()
    split = choose_split(store, holdout=None, seed=0)
    return vectors[split.train], labels[split.train], vectors[split.test], labels[split.test]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_accuracy_is_that_of_scikit_learns_classifier(store, k):
    train, known, test, truth = data(store)
    oracle = KNeighborsClassifier(k).fit(train, known)
    (score,) = evaluate_knn(store.root, KnnOptions(k=k)).scores
    assert score.metrics["accuracy"] == oracle.score(test, truth)
    assert (score.n_train, score.n_test, score.dim) == (320, 80, 20)


def test_a_majority_goes_to_the_smallest_label_on_ties():
    labels = np.array([[3, 1, 3, 1], [2, 2, 5, 4], [9, 8, 7, 6]], np.int32)
    ranked = vote(labels).ranked
    assert ranked[:, 0].tolist() == [1, 2, 6]
    assert ranked.tolist() == [[1, 3, -1, -1], [2, 4, 5, -1], [6, 7, 8, 9]]


def test_votes_equal_a_count_of_each_class():
    random = np.random.default_rng(0)
    labels = random.integers(0, 30, (500, 20)).astype(np.int32)
    weights = random.random((500, 20))
    for given in (None, weights):
        tally = np.zeros((500, 30))
        every = np.ones_like(weights) if given is None else given
        np.add.at(tally, (np.arange(500)[:, None], labels), every)
        best = np.argsort(-tally, axis=1, kind="stable")[:, :5]
        ranked = vote(labels, given).ranked
        present = np.take_along_axis(tally, best, 1) > 0
        assert np.array_equal(ranked[present], best[present])
        assert (ranked[~present] == -1).all()


def test_at_a_low_temperature_the_nearest_neighbour_decides(tmp_path):
    """And the shares of the votes stay numbers, so the area under the curve is that of one vote."""
    root = store_of(tmp_path / "low.fungi", classes=2).root
    (cold,) = evaluate_knn(root, KnnOptions(vote="weighted", temperature=1e-5, k=9)).scores
    (one,) = evaluate_knn(root, KnnOptions(vote="weighted", k=1)).scores
    assert cold.metrics == pytest.approx(one.metrics)


def test_the_weighted_vote_is_dinos(store):
    train, known, test, truth = data(store)
    train, test = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (train, test))
    cosines = test @ train.T
    nearest = np.argsort(-cosines, axis=1)[:, :20]
    tally = np.zeros((len(test), 7))
    weights = np.exp(np.take_along_axis(cosines, nearest, 1) / 0.07)
    np.add.at(tally, (np.arange(len(test))[:, None], known[nearest]), weights)
    (score,) = evaluate_knn(store.root, KnnOptions(vote="weighted")).scores
    assert score.metrics["accuracy"] == (tally.argmax(axis=1) == truth).mean()
    top5 = np.argsort(-tally, axis=1)[:, :5]
    assert score.metrics["top5_accuracy"] == (top5 == truth[:, None]).any(axis=1).mean()


def test_a_pca_is_fitted_on_the_training_rows_of_each_combination(store):
    options = KnnOptions(combinations="all", pca_dims=(None, 6), k=5)
    scores = evaluate_knn(store.root, options).scores
    assert [(score.features, score.dim) for score in scores] == [
        (("embeddings",), 10),
        (("embeddings",), 6),
        (("kl",), 10),
        (("kl",), 6),
        (("embeddings", "kl"), 20),
        (("embeddings", "kl"), 6),
    ]
    for score in scores:
        train, known, test, truth = data(store, score.features)
        if score.dim == 6:
            pca = PCA(6, svd_solver="full").fit(train)
            train, test = pca.transform(train), pca.transform(test)
        assert score.metrics["accuracy"] == KNeighborsClassifier(5).fit(train, known).score(
            test, truth
        )


def test_a_pca_that_cannot_be_fitted_is_skipped_aloud(store):
    said = []
    options = KnnOptions(combinations="nested", pca_dims=(15,))
    scores = evaluate_knn(store.root, options, context=Context(Notices(said))).scores
    assert [score.dim for score in scores] == [10, 15]
    assert scores[0].protocol["pca"] is None
    assert "320 training rows of 10 numbers" in scores[0].protocol["pca_skipped"]
    assert any("no PCA to 15" in text for text in said)


def test_memory_limits_change_nothing(store, monkeypatch):
    expected = evaluate_knn(store.root, KnnOptions(k=5)).scores
    monkeypatch.setattr(task, "RESIDENT_BYTES", 100)
    assert evaluate_knn(store.root, KnnOptions(k=5)).scores == expected


def test_two_classes_have_a_roc_auc_and_ordered_ones_a_kappa(tmp_path):
    store = store_of(tmp_path / "two", classes=2, noise=6.0)
    (score,) = evaluate_knn(store.root, KnnOptions(kappa=True)).scores
    train, known, test, truth = data(store)
    oracle = KNeighborsClassifier(20).fit(train, known)
    predicted = oracle.predict(test)
    assert score.metrics["roc_auc"] == pytest.approx(
        roc_auc_score(truth, oracle.predict_proba(test)[:, 1])
    )
    assert score.metrics["quadratic_kappa"] == pytest.approx(
        cohen_kappa_score(truth, predicted, weights="quadratic")
    )
    assert "top5_accuracy" not in score.metrics


def test_shots_are_so_many_of_each_class_and_differ_by_seed():
    labels = np.array([2, 0, 2, 1, 0, 1, 2, 0] * 10, np.int32)
    rows = np.arange(80)
    first = choose_shots(rows, labels, 2, "first", 0)
    assert first.tolist() == [0, 1, 2, 3, 4, 5]
    one = choose_shots(rows, labels, 5, "random", 0)
    assert np.bincount(labels[one]).tolist() == [5, 5, 5]
    assert not np.array_equal(one, choose_shots(rows, labels, 5, "random", 1))


@pytest.mark.parametrize("seed", [0, 42])
def test_proportional_shots_are_scikit_learns_draw_by_frequency(tmp_path, seed):
    """The reference's rule for texts: shots x classes rows, as frequent as in train."""
    random = np.random.default_rng(seed)
    names = [f"class {number}" for number in np.minimum(random.geometric(0.4, ROWS), 5)]
    vectors = random.normal(size=(ROWS, 6)).astype(np.float32)
    splits = ["test" if row % 4 == 0 else "train" for row in range(ROWS)]
    made = make_store(tmp_path / "s", {"embeddings": vectors}, names, splits)
    train, known, test, truth = data(made)
    splitter = StratifiedShuffleSplit(1, train_size=8 * 5, random_state=seed)
    ((rows, _),) = splitter.split(train, known)
    counts = np.bincount(known[rows])
    assert counts.max() > 2 * counts.min()
    options = KnnOptions(shots=8, shot_rule="proportional", k=3, seed=seed)
    (score,) = evaluate_knn(made.root, options).scores
    assert score.n_train == 40
    rows.sort()
    oracle = KNeighborsClassifier(3).fit(train[rows], known[rows])
    assert score.metrics["accuracy"] == oracle.score(test, truth)
    every = KnnOptions(shots=ROWS, shot_rule="proportional", k=3)
    assert evaluate_knn(made.root, every).scores[0].n_train == len(train)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [0, 0, 0, 1, 1]])
def test_a_proportional_choice_that_cannot_be_is_refused_with_another(labels):
    """A class of one row, or too few rows left over for each class, in the words of the draw."""
    with pytest.raises(UsageError, match="no proportional choice") as caught:
        choose_shots(
            np.arange(len(labels)),
            np.array(labels, np.int32),
            1 + len(labels) // 5,
            "proportional",
            0,
        )
    assert "--shot-rule random" in caught.value.hint


def test_few_shots_are_averaged_over_seeds(store):
    options = KnnOptions(shots=5, seeds=3, k=5)
    (score,) = evaluate_knn(store.root, options).scores
    assert score.n_train == 35
    train, known, test, truth = data(store)
    split = choose_split(store, holdout=None, seed=0)
    labels = store.samples.labels()
    accuracies = []
    for seed in range(3):
        rows = choose_shots(split.train, labels, 5, "random", seed)
        at = np.searchsorted(split.train, rows)
        accuracies.append(KNeighborsClassifier(5).fit(train[at], known[at]).score(test, truth))
    assert score.metrics["accuracy"] == pytest.approx(np.mean(accuracies))
    assert score.metrics["accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))


def test_combinations_are_compared_on_the_same_rows_and_the_others_are_counted(tmp_path):
    other, _ = clustered(ROWS, 7, 10, seed=1)
    other[[0, 1, 9]] = np.nan
    store = store_of(tmp_path / "s", classes=7, **{"gradients/kl": other})
    done = evaluate_knn(store.root, KnnOptions(combinations="nested"))
    assert done.excluded["rows without usable features"] == 3
    assert [(score.n_train, score.n_test) for score in done.scores] == [(318, 79), (318, 79)]


def test_a_pca_that_saw_test_rows_is_refused(store):
    fit_pca(store.root, PcaOptions(dim=4, name="all", fit_split="all"))
    fit_pca(store.root, PcaOptions(dim=4, name="train"))
    with pytest.raises(MismatchError, match="fitted on 80 of the 80 test rows"):
        evaluate_knn(store.root, KnnOptions(pca="all"))
    assert evaluate_knn(store.root, KnnOptions(pca="train")).scores[0].dim == 4


def test_spoiled_test_rows_change_no_other_prediction(tmp_path):
    """Test rows reach neither the neighbours nor the PCA of other test rows."""
    vectors, labels = clustered(ROWS, 4, 10, noise=2.0)
    splits = ["test" if row % 5 == 0 else "train" for row in range(ROWS)]
    truth = []
    for name in ("a", "b"):
        store = make_store(tmp_path / name, {"embeddings": vectors}, labels, splits)
        options = KnnOptions(pca_dims=(None, 4), k=5)
        truth.append([s.metrics["accuracy"] for s in evaluate_knn(store.root, options).scores])
        vectors = vectors.copy()
        vectors[[0, 20]] *= -50
    changed = [round(abs(one - two) * 80) for one, two in zip(*truth, strict=True)]
    assert max(changed) <= 2


@pytest.mark.parametrize(
    ("options", "rows", "use"),
    [
        ({"k": 321}, 320, "all of them vote, so every test row is said to be of the largest class"),
        ({"shots": (2,), "vote": "weighted"}, 14, "all of them vote, the nearest most"),
        ({"shots": (2, 3), "split_seeds": 2}, 14, "all of them vote, so every test row is said"),
    ],
)
def test_more_neighbours_than_training_rows_are_said_before_they_vote(store, options, rows, use):
    """Once for each number of rows; the scores' protocols have the number that voted."""
    said = []
    done = evaluate_knn(store.root, KnnOptions(**options), context=Context(Notices(said)))
    k = options.get("k", 20)
    (line,) = [line for line in said if line.startswith("--k ")]
    assert line.startswith(f"--k {k} of {rows} training rows: {rows} are used; {use}")
    first = done.scores[0].protocol
    assert (done.protocol["k"], first.get("runs", [first])[0]["k"]) == (k, rows)
    voted = KnnOptions(**options | {"k": rows, "shots": options.get("shots", ("all",))[:1]})
    assert done.scores[0].metrics == evaluate_knn(store.root, voted).scores[0].metrics
    assert all("k" not in score.protocol for score in evaluate_knn(store.root, voted).scores)


def test_a_majority_of_as_many_as_there_are_is_said_too():
    """Every test row has the same neighbours then; the nearest of a weighted vote still differ."""
    said = []
    say_votes(20, 20, "majority", Context(Notices(said)))
    say_votes(20, 20, "weighted", Context(Notices(said)))
    say_votes(20, 21, "majority", Context(Notices(said)))
    (line,) = said
    assert line.startswith("--k 20 of 20 training rows: 20 are used; all of them vote, so every")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (KnnOptions(pca="none"), "there is no PCA"),
        (KnnOptions(features=("dino",)), "no such feature"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(store, options, what):
    with pytest.raises(UsageError, match=what):
        evaluate_knn(store.root, options)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 0},
        {"shots": 0},
        {"seeds": 0},
        {"pca": "p", "combinations": "all"},
        {"pca": "p", "pca_dims": (None, 4)},
        {"pca_dims": (0,)},
    ],
)
def test_contradictions_are_refused_before_anything_is_read(settings):
    with pytest.raises(UsageError):
        KnnOptions(**settings)


@pytest.mark.parametrize("shots", [{}, {"shots": 5, "shot_rule": "first"}])
def test_seeds_that_would_all_give_the_same_are_refused(store, shots):
    """With the store's own test rows, a seed only chooses random shots."""
    with pytest.raises(UsageError, match="cannot use this value of seeds") as caught:
        evaluate_knn(store.root, KnnOptions(k=5, seeds=2, **shots))
    assert "--holdout" in str(caught.value.expected)


def test_a_holdout_is_repeated_over_seeds(store):
    options = KnnOptions(holdout=0.3, seeds=3, seed=4, k=5)
    (score,) = evaluate_knn(store.root, options).scores
    single = [
        evaluate_knn(store.root, KnnOptions(holdout=0.3, seed=seed, k=5)).scores[0]
        for seed in (4, 5, 6)
    ]
    accuracies = [one.metrics["accuracy"] for one in single]
    assert score.metrics["accuracy"] == pytest.approx(np.mean(accuracies))
    assert score.metrics["accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "accuracy" in single[0].spread


def test_one_class_and_no_labels_are_refused(tmp_path):
    vectors = clustered(40, 2, 4)[0]
    one = make_store(tmp_path / "one", {"embeddings": vectors}, ["a"] * 40)
    with pytest.raises(UsageError, match="of one class"):
        evaluate_knn(one.root, KnnOptions(holdout=0.5))
    none = make_store(tmp_path / "none", {"embeddings": vectors}, [None] * 40)
    with pytest.raises(UsageError, match="no labels"):
        evaluate_knn(none.root, KnnOptions(holdout=0.5))


def test_the_command_prints_and_saves_json_with_fingerprints(store):
    run = CliRunner().invoke(app, ["eval", "knn", str(store.root), "--json"])
    assert run.exit_code == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["metrics"]["accuracy"] == document["scores"][0]["metrics"]["accuracy"]
    arrays = Store.open(store.root).arrays("set").values()
    assert document["fingerprints"] == {array.name: array.fingerprint for array in arrays}
    with open(document.pop("saved"), encoding="utf-8") as file:
        assert json.load(file) == sealed(document)
    again = CliRunner().invoke(app, ["eval", "knn", str(store.root), "--json"])
    assert again.stdout == run.stdout
    assert len(list((store.root / "evals").iterdir())) == 1


def test_the_command_prints_a_table(store):
    arguments = ["--combinations", "nested", "--pca-dim", "none,4", "--k", "3"]
    run = CliRunner().invoke(app, ["eval", "knn", str(store.root), *arguments])
    assert run.exit_code == 0, run.stderr
    assert len(run.stdout.splitlines()) == 5
    assert run.stdout.splitlines()[0].split()[:4] == ["features", "dim", "train", "test"]


@pytest.mark.parametrize(
    "arguments", [["--vote", "odd"], ["--combinations", "some"], ["--pca-dim", "x"], ["--k", "0"]]
)
def test_bad_flags_exit_2(store, arguments):
    assert CliRunner().invoke(app, ["eval", "knn", str(store.root), *arguments]).exit_code == 2
