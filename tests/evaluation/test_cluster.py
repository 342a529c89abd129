"""Clustering: k-means as scikit-learn does it, and metrics that follow their definitions."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from sklearn.cluster import KMeans as ReferenceKMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from feature_world import clustered, make_store
from fungistore.errors import UsageError
from fungistore.evaluation import cluster
from fungistore.evaluation.cluster import evaluate_cluster, match_clusters
from fungistore.evaluation.options import ClusterOptions


def test_agreement_follows_its_definition() -> None:
    """Six rows of class 0 and two of class 1: the parts are of rows, or averaged over classes."""
    truth = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    clusters = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    agreement = match_clusters(truth, clusters)  # 0 with 1: 3 of 6, 1 with 0: 2 of 2
    assert agreement.matched_accuracy == pytest.approx(5 / 8)
    assert agreement.mean_overlap == pytest.approx((3 / 6 + 2 / 2) / 2)


def test_the_matching_is_the_best_of_all() -> None:
    """No other one to one matching puts more rows into their class's cluster."""
    random = np.random.default_rng(0)
    truth, clusters = random.integers(0, 5, 80), random.integers(0, 5, 80)
    best = max(
        np.mean(np.array(order)[clusters] == truth) for order in itertools.permutations(range(5))
    )
    assert match_clusters(truth, clusters).matched_accuracy == pytest.approx(best)


def test_a_class_whose_cluster_ran_empty_overlaps_nothing() -> None:
    agreement = match_clusters(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1]))
    assert agreement.matched_accuracy == pytest.approx(4 / 6)
    assert agreement.mean_overlap == pytest.approx(2 / 3)


def test_scores_agree_with_scikit_learn(tmp_path: Path) -> None:
    """Separable classes of unequal size: the same clusters as scikit-learn's k-means finds."""
    vectors, labels = clustered(120, 4, 12, noise=0.35)
    vectors, labels = vectors[:-17], labels[:-17]
    kl = vectors[:, ::-1] + 0.1
    make_store(tmp_path / "s", {"embeddings": vectors, "gradients/kl": kl}, labels)
    found = evaluate_cluster(tmp_path / "s", ClusterOptions())
    assert [score.features for score in found.scores] == [("embeddings",), ("embeddings", "kl")]
    both = np.hstack([normalize(vectors), normalize(kl)])
    for score, rows in zip(found.scores, (both[:, :12], both), strict=True):
        reference = ReferenceKMeans(4, n_init=10, random_state=0).fit_predict(rows)
        agreement = match_clusters(np.unique(labels, return_inverse=True)[1], reference)
        assert score.metrics["matched_accuracy"] == pytest.approx(agreement.matched_accuracy)
        assert score.metrics["mean_overlap"] == pytest.approx(agreement.mean_overlap)
        nmi, ari = (
            normalized_mutual_info_score(labels, reference),
            adjusted_rand_score(labels, reference),
        )
        assert (score.metrics["nmi"], score.metrics["ari"]) == pytest.approx((nmi, ari))


def test_the_same_seed_gives_the_same_result_and_one_file(tmp_path: Path) -> None:
    """Hard classes, where starts matter: repeats are equal, and saved once with fingerprints."""
    vectors, labels = clustered(90, 5, 8, noise=2.5)
    store = make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    runs = [evaluate_cluster(tmp_path / "s", ClusterOptions(nredo=1)) for _ in range(2)]
    other = evaluate_cluster(tmp_path / "s", ClusterOptions(nredo=1, seed=1))
    assert runs[0] == runs[1]
    assert runs[0].scores[0].metrics != other.scores[0].metrics
    paths = {run.save(_Quiet()) for run in runs}
    (path,) = paths
    assert path is not None
    document = json.loads(Path(path).read_text())
    array = store.arrays("set")["embeddings"]
    assert document["scores"][0]["fingerprints"] == {array.name: array.fingerprint}
    assert document["protocol"]["kmeans"] == {"niter": 25, "nredo": 1, "spherical": False}


def test_more_rows_than_fit_are_sampled_but_all_assigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """k-means sees a bounded sample; the metrics are over every row."""
    monkeypatch.setattr(cluster, "POINTS_PER_CLUSTER", 8)
    vectors, labels = clustered(150, 3, 10, noise=0.2)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    (score,) = evaluate_cluster(tmp_path / "s", ClusterOptions()).scores
    assert (score.n_train, score.n_test) == (24, 150)
    assert score.metrics["matched_accuracy"] == 1


def test_rows_that_cannot_be_used_are_counted_and_left_out(tmp_path: Path) -> None:
    """NaN rows in either block and unlabelled rows do not change the clusters of the others."""
    vectors, names = clustered(60, 3, 10, noise=0.2)
    labels: list[str | None] = list(names)
    kl = vectors.copy()
    vectors[4], kl[7], labels[10], labels[11] = np.nan, np.nan, None, None
    make_store(tmp_path / "s", {"embeddings": vectors, "gradients/kl": kl}, labels)
    found = evaluate_cluster(tmp_path / "s", ClusterOptions())
    assert {score.n_test for score in found.scores} == {56}
    assert list(found.excluded.values()) == [2, 2]


def test_a_split_alone_can_be_clustered(tmp_path: Path) -> None:
    vectors, labels = clustered(40, 2, 6)
    splits = ["train"] * 28 + ["test"] * 12
    make_store(tmp_path / "s", {"embeddings": vectors}, labels, splits)
    assert evaluate_cluster(tmp_path / "s", ClusterOptions(split="test")).scores[0].n_test == 12
    with pytest.raises(UsageError, match="no split 'val'") as caught:
        evaluate_cluster(tmp_path / "s", ClusterOptions(split="val"))
    assert "test, train" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (["one"] * 20, {}, "too few"),
        ([None] * 20, {}, "too few"),
        (["a", "b"] * 10, {"features": ("dino",)}, "no such feature: dino"),
        (["a", "b"] * 10, {"pca": "x"}, "no PCA 'x'"),
        (["a", "b"] * 10, {"niter": 0}, "--niter"),
    ],
)
def test_what_cannot_be_clustered_is_explained(
    tmp_path: Path, labels: list[str | None], arguments: dict[str, object], words: str
) -> None:
    vectors, _ = clustered(20, 2, 6)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    with pytest.raises(UsageError) as caught:
        evaluate_cluster(tmp_path / "s", ClusterOptions(**arguments))
    assert words in str(caught.value)


def test_a_class_for_every_row_is_no_crash(tmp_path: Path) -> None:
    vectors, _ = clustered(12, 2, 6)
    make_store(tmp_path / "s", {"embeddings": vectors}, [f"c{row}" for row in range(12)])
    (score,) = evaluate_cluster(tmp_path / "s", ClusterOptions()).scores
    assert score.metrics["matched_accuracy"] == 1


class _Quiet:
    def notice(self, text: str) -> None:
        raise AssertionError(text)

    def begin(self, what: str, total: int, done: int = 0) -> None: ...
    def advance(self, count: int) -> None: ...
    def end(self) -> None: ...


def test_the_command_prints_a_table_or_one_json_object(tmp_path: Path) -> None:
    """Results go to stdout, the file's name to stderr; a wrong choice exits with 2."""
    vectors, labels = clustered(30, 3, 10, noise=0.2)
    make_store(tmp_path / "s", {"embeddings": vectors, "gradients/kl": vectors}, labels)
    command = ["eval", "cluster", str(tmp_path / "s")]
    table = CliRunner().invoke(app, [*command])
    assert table.exit_code == 0, table.stderr
    assert "embeddings + kl" in table.stdout
    assert "mean overlap" in table.stdout
    assert "saved: " in table.stderr
    done = CliRunner().invoke(
        app, ["eval", "cluster", str(tmp_path / "s"), "--combinations", "one", "--json"]
    )
    document = json.loads(done.stdout)
    assert document["features"] == ["embeddings", "kl"]
    assert Path(document["saved"]).is_file()
    assert (
        CliRunner()
        .invoke(app, ["eval", "cluster", str(tmp_path / "s"), "--combinations", "no"])
        .exit_code
        == 2
    )
