"""Retrieval: golden numbers of the revisited protocol, scikit-learn's precision, safe pickles."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fungi_cli.main import app
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from feature_world import clustered, make_store
from fungistore.errors import MismatchError, UsageError
from fungistore.evaluation import retrieval
from fungistore.evaluation.ground_truth import read_ground_truth
from fungistore.evaluation.options import RetrievalOptions
from fungistore.evaluation.ranking import (
    capped_precision,
    mean_precision,
    ranks_without_junk,
    trapezoid_precision,
)
from fungistore.evaluation.retrieval import evaluate_retrieval
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca

IMAGES = 20  # the first rows are the database, the last four the queries


def mask(*positions: int, size: int = 5) -> np.ndarray:
    chosen = np.zeros(size, bool)
    chosen[list(positions)] = True
    return chosen


@pytest.mark.parametrize(
    ("ranks", "positives", "expected"), [([0, 2, 5], 4, 0.5083333), ([1, 2], 2, 0.4166667)]
)
def test_trapezoid_precision_is_the_original_one(
    ranks: list[int], positives: int, expected: float
) -> None:
    """Golden numbers that the original functions gave."""
    assert trapezoid_precision(np.array(ranks), positives) == pytest.approx(expected, abs=1e-7)


def test_junk_is_taken_out_of_the_ranking() -> None:
    """Golden numbers: two rankings with junk have 0.333333 and 0.791667, 0.5625 in the mean."""
    orders = [np.array([0, 4, 2, 1, 3]), np.array([3, 1, 2, 0, 4])]
    positives, junk = [mask(2, 3), mask(1, 0)], [mask(4), mask(3)]
    found = [
        trapezoid_precision(ranks_without_junk(*each), 2)
        for each in zip(orders, positives, junk, strict=True)
    ]
    assert found == pytest.approx([0.333333, 0.791667], abs=1e-6)
    assert np.mean(found) == pytest.approx(0.5625)


def test_precision_is_cut_at_the_last_positive() -> None:
    """Two positives at ranks 0 and 1 are all there is to find: precision 1 at 5 and at 10."""
    assert capped_precision(np.array([0, 1]), 2, 10) == 1
    assert capped_precision(np.array([0, 3]), 2, 10) == pytest.approx(2 / 4)
    assert capped_precision(np.array([0, 30]), 2, 10) == pytest.approx(1 / 10)
    assert capped_precision(np.array([0, 1]), 3, 10) == pytest.approx(2 / 10)  # one never found


def test_mean_precision_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    scores, relevant = random.normal(size=50), random.random(50) < 0.3
    order = np.argsort(-scores)
    found = mean_precision(np.flatnonzero(relevant[order]), int(relevant.sum()))
    assert found == pytest.approx(average_precision_score(relevant, scores))


def truth_document() -> dict[str, Any]:
    """Ground truth as the published pickles have it, with the names in an order of their own."""
    order = np.random.default_rng(1).permutation(IMAGES - 4)
    gnd = []
    for query in range(4):
        rest = np.random.default_rng(query).permutation(IMAGES - 4)
        gnd.append(
            {"easy": rest[:3], "hard": rest[3:5], "junk": rest[5:8], "bbx": np.ones(4, np.float32)}
        )
    gnd[3]["easy"] = np.array([])  # nothing is easy for the last query
    return {
        "imlist": [f"{row:06d}" for row in order],
        "qimlist": [f"{row:06d}" for row in range(IMAGES - 4, IMAGES)],
        "gnd": gnd,
    }


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, default=lambda array: array.astype(np.int64).tolist())


def make_world(root: Path) -> tuple[Path, np.ndarray]:
    vectors = np.random.default_rng(3).normal(size=(IMAGES, 6)).astype(np.float32)
    make_store(root / "s", {"embeddings": vectors}, [None] * IMAGES, unit_rows=8)
    return root / "s", vectors


def reference(vectors: np.ndarray, document: dict[str, Any], level: str) -> list[float]:
    """mAP and mP@1, 5, 10, straight from the protocol's words, with lists."""
    rows = normalize(vectors)
    database = rows[[int(name) for name in document["imlist"]]]
    results = []
    for name, truth in zip(document["qimlist"], document["gnd"], strict=True):
        easy, hard, junk = (set(truth[key].tolist()) for key in ("easy", "hard", "junk"))
        right = {"easy": easy, "medium": easy | hard, "hard": hard}[level]
        ignored = {"easy": junk | hard, "medium": junk, "hard": junk | easy}[level]
        if not right:
            continue
        ranking = [i for i in np.argsort(-(database @ rows[int(name)])) if i not in ignored]
        at = [place for place, image in enumerate(ranking) if image in right]
        before = [n / place if place else 1 for n, place in enumerate(at)]
        after = [(n + 1) / (place + 1) for n, place in enumerate(at)]
        average = sum((x + y) / 2 for x, y in zip(before, after, strict=True)) / len(right)
        cuts = [min(cut, at[-1] + 1) for cut in (1, 5, 10)]
        results.append([average, *(sum(place < cut for place in at) / cut for cut in cuts)])
    return np.mean(results, axis=0).tolist()


@pytest.mark.parametrize("protocol", [2, 4, 5, "json"])
def test_the_revisited_protocol(tmp_path: Path, protocol: int | str) -> None:
    """Pickles of any age and JSON give the numbers of a plain reimplementation."""
    document = truth_document()
    path = tmp_path / ("truth.json" if protocol == "json" else "truth.pkl")
    if protocol == "json":
        path.write_text(as_json(document))
    else:
        path.write_bytes(pickle.dumps(document, protocol=int(protocol)))
    store, vectors = make_world(tmp_path)
    found = evaluate_retrieval(store, RetrievalOptions(ground_truth=path))
    levels = [score.protocol["difficulty"] for score in found.scores]
    assert levels == ["easy", "medium", "hard"]
    assert [score.n_test for score in found.scores] == [3, 4, 4]
    for level, score in zip(levels, found.scores, strict=True):
        assert list(score.metrics) == ["map", "mp@1", "mp@5", "mp@10"]
        expected = reference(vectors, document, level)
        assert list(score.metrics.values()) == pytest.approx(expected, abs=1e-6)


def test_blocks_of_queries_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query at a time, or all at once: the same scores."""
    vectors, labels = clustered(60, 4, 8, noise=2)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    at_once = evaluate_retrieval(tmp_path / "s", RetrievalOptions())
    monkeypatch.setattr(retrieval, "SCORE_BYTES", 1)
    (one,), (many,) = evaluate_retrieval(tmp_path / "s", RetrievalOptions()).scores, at_once.scores
    assert one.metrics == pytest.approx(many.metrics)


def test_rows_without_a_split_are_counted(tmp_path: Path) -> None:
    """Where the test split searches the train split, the others are left out, and said."""
    vectors, labels = clustered(60, 3, 8)
    splits = ["train"] * 20 + ["test"] * 20 + [None] * 20
    make_store(tmp_path / "s", {"embeddings": vectors}, labels, splits)
    found = evaluate_retrieval(tmp_path / "s", RetrievalOptions())
    assert found.excluded["rows without a split"] == 20
    make_store(tmp_path / "w", {"embeddings": vectors}, labels)
    whole = evaluate_retrieval(tmp_path / "w", RetrievalOptions())
    assert "rows without a split" not in whole.excluded


def test_an_unreadable_image_is_never_found(tmp_path: Path) -> None:
    """A NaN row of the database stays a positive; a NaN query is left out; both are counted."""
    vectors = np.eye(6, dtype=np.float32)[[0, 0, 1, 2, 0, 0]]
    vectors[[1, 5]] = np.nan
    make_store(tmp_path / "s", {"embeddings": vectors}, [None] * 6)
    names = [f"{row:06d}" for row in range(6)]
    gnd = [{"easy": [0, 1], "hard": [], "junk": []}] * 2
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"imlist": names[:4], "qimlist": names[4:], "gnd": gnd}))
    found = evaluate_retrieval(tmp_path / "s", RetrievalOptions(ground_truth=path))
    easy, medium, hard = found.scores
    assert list(found.excluded.values()) == [1, 1]
    assert easy.metrics == medium.metrics
    assert (easy.metrics["map"], easy.metrics["mp@5"]) == pytest.approx((1 / 2, 1 / 5))
    assert (hard.n_test, dict(hard.metrics)) == (0, {})


class Malicious:
    """Runs a command when it is read by an ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path: Path) -> None:
    """The command would make a file; an ordinary reader shows that it works."""
    trap, path = tmp_path / "trap", tmp_path / "t.pkl"
    path.write_bytes(pickle.dumps({"imlist": [], "qimlist": [], "gnd": [Malicious(trap)]}))
    with pytest.raises(UsageError, match="more than data") as caught:
        read_ground_truth(path)
    assert "posix.system" in str(caught.value)
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    ],
)
def test_no_other_name_can_be_reached(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.pkl").write_bytes(data)
    with pytest.raises(UsageError, match="more than data"):
        read_ground_truth(tmp_path / "t.pkl")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.pkl", b"P1\n.", "persistent"),
        ("t.pkl", b"not a pickle", "not a ground truth"),
        ("t.pkl", pickle.dumps([1, 2]), "not a revisited ground truth"),
        ("t.json", b"{", "not a ground truth"),
        ("t.json", b'{"imlist": [], "qimlist": ["a"], "gnd": []}', "1 query in qimlist, 0"),
        ("t.json", b'{"imlist": ["a", "a"], "qimlist": [], "gnd": []}', "occurs twice"),
        ("t.json", b'{"imlist": ["a"], "qimlist": ["b"], "gnd": [{"ok": [0]}]}', "no 'easy'"),
        (
            "t.json",
            b'{"imlist": ["a"], "qimlist": ["b"], "gnd": [{"easy":[1],"hard":[],"junk":[]}]}',
            "positions 1 to 1 of 1",
        ),
        (
            "t.json",
            b'{"imlist": ["a"], "qimlist": ["b"], "gnd": [{"easy":[0.5],"hard":[],"junk":[]}]}',
            "whole number",
        ),
    ],
)
def test_ground_truth_that_is_none_is_explained(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_ground_truth(tmp_path / name)
    assert words in str(caught.value)


def test_images_that_the_store_lacks_are_counted_and_named(tmp_path: Path) -> None:
    document = truth_document()
    document["imlist"][3], document["imlist"][5] = "all_souls_1", "all_souls_2"
    (tmp_path / "t.json").write_text(as_json(document))
    store, _ = make_world(tmp_path)
    with pytest.raises(UsageError, match="2 of the 20 images") as caught:
        evaluate_retrieval(store, RetrievalOptions(ground_truth=tmp_path / "t.json"))
    assert "all_souls_1, all_souls_2" in str(caught.value)


def test_by_label_every_row_searches_all_others(tmp_path: Path) -> None:
    """mAP is the mean of scikit-learn's average precision, the query itself left out."""
    vectors, labels = clustered(50, 4, 8, noise=2)
    kl = np.random.default_rng(9).normal(size=(50, 5)).astype(np.float32)
    make_store(tmp_path / "s", {"embeddings": vectors, "gradients/kl": kl}, labels)
    found = evaluate_retrieval(tmp_path / "s", RetrievalOptions())
    both = np.hstack([normalize(vectors), normalize(kl)])
    names = np.array(labels)
    for score, rows in zip(found.scores, (both[:, :8], both), strict=True):
        averages, at_five = [], []
        for query in range(50):
            others = np.delete(np.arange(50), query)
            scores, relevant = rows[others] @ rows[query], names[others] == names[query]
            averages.append(average_precision_score(relevant, scores))
            at_five.append(relevant[np.argsort(-scores)[:5]].mean())
        assert score.metrics["map"] == pytest.approx(np.mean(averages), abs=1e-6)
        assert score.metrics["mp@5"] == pytest.approx(np.mean(at_five), abs=1e-6)
        assert (score.n_train, score.n_test) == (50, 50)


def test_by_label_the_test_split_searches_the_train_split(tmp_path: Path) -> None:
    vectors, labels = clustered(50, 4, 8, noise=2)
    splits = ["train"] * 38 + ["test"] * 12
    make_store(tmp_path / "s", {"embeddings": vectors}, labels, splits)
    (score,) = evaluate_retrieval(tmp_path / "s", RetrievalOptions()).scores
    rows, names = normalize(vectors), np.array(labels)
    expected = [
        average_precision_score(names[:38] == names[query], rows[:38] @ rows[query])
        for query in range(38, 50)
    ]
    assert (score.n_train, score.n_test) == (38, 12)
    assert score.metrics["map"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_by_label_leaves_out_what_cannot_count(tmp_path: Path) -> None:
    """Unlabelled and NaN rows are in no ranking; a class of one has nothing to find."""
    vectors, names = clustered(30, 3, 8, noise=0.1)
    labels: list[str | None] = list(names)
    labels[0], labels[1], vectors[1], vectors[2] = None, "alone", -vectors[1], np.nan
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    found = evaluate_retrieval(tmp_path / "s", RetrievalOptions())
    assert list(found.excluded.values()) == [1, 1, 1]
    assert (found.scores[0].n_train, found.scores[0].n_test) == (28, 27)
    assert found.scores[0].metrics["map"] == pytest.approx(1)


def test_a_sample_of_queries_depends_on_the_seed_alone(tmp_path: Path) -> None:
    vectors, labels = clustered(80, 4, 8, noise=3)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    runs = [
        evaluate_retrieval(tmp_path / "s", RetrievalOptions(queries=10, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0].scores[0].metrics != runs[2].scores[0].metrics
    assert runs[0].scores[0].n_test == 10


def test_cosine_differs_from_the_dot_product_of_a_pca(tmp_path: Path) -> None:
    """The vectors of a PCA are not of length one: the dot product favours long ones."""
    vectors, labels = clustered(60, 3, 8, noise=1.5)
    vectors *= np.random.default_rng(1).uniform(0.2, 5, (60, 1)).astype(np.float32)
    make_store(tmp_path / "s", {"pca/p": vectors}, labels)
    dot, cosine = (
        evaluate_retrieval(tmp_path / "s", RetrievalOptions(pca="p", metric=metric))
        .scores[0]
        .metrics["map"]
        for metric in ("dot", "cosine")
    )
    names = np.array(labels)
    for found, rows in ((dot, vectors), (cosine, normalize(vectors))):
        expected = []
        for query in range(60):
            others = np.delete(np.arange(60), query)
            relevant = names[others] == names[query]
            expected.append(average_precision_score(relevant, rows[others] @ rows[query]))
        assert found == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (["one"] * 20, {}, "several classes"),
        ([None] * 20, {}, "several classes"),
        ([f"c{row}" for row in range(20)], {}, "no query has an image to find"),
        (["a", "b"] * 10, {"queries": 0}, "--queries"),
        (["a", "b"] * 10, {"features": ("dino",)}, "no such feature: dino"),
        (["a", "b"] * 10, {"ground_truth": Path("/none.pkl")}, "cannot be read"),
        (["a", "b"] * 10, {"ground_truth": Path("x"), "queries": 3}, "--queries"),
    ],
)
def test_what_cannot_be_retrieved_is_explained(
    tmp_path: Path, labels: list[str | None], arguments: dict[str, Any], words: str
) -> None:
    vectors, _ = clustered(20, 2, 6)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    with pytest.raises(UsageError) as caught:
        evaluate_retrieval(tmp_path / "s", RetrievalOptions(**arguments))
    assert words in str(caught.value)


def test_the_command_tells_the_difficulties_apart(tmp_path: Path) -> None:
    """One line for each difficulty; by label there is no such column; JSON says where it went."""
    store, _ = make_world(tmp_path)
    (tmp_path / "t.json").write_text(as_json(truth_document()))
    arguments = ["eval", "retrieval", str(store), "--ground-truth", str(tmp_path / "t.json")]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.stderr
    first = [line.split()[0] for line in table.stdout.splitlines()]
    assert first == ["difficulty", "easy", "medium", "hard"]
    document = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert len(document["scores"]) == 3
    assert document["protocol"]["ground_truth"]["file"] == "t.json"
    assert Path(document["saved"]).is_file()
    assert CliRunner().invoke(app, [*arguments, "--metric", "l1"]).exit_code == 2


def test_a_pca_that_has_seen_the_queries_is_refused(tmp_path: Path) -> None:
    """Where the queries are not of the database, the PCA must not have been fitted on them."""
    vectors, labels = clustered(50, 4, 8, noise=2)
    splits = ["train"] * 38 + ["test"] * 12
    make_store(tmp_path / "s", {"embeddings": vectors}, labels, splits)
    for part in ("all", "train"):
        fit_pca(tmp_path / "s", PcaOptions(dim=4, fit_split=part, name=part))
    assert evaluate_retrieval(tmp_path / "s", RetrievalOptions(pca="train")).scores[0].dim == 4
    with pytest.raises(MismatchError, match="fitted on 12 of the 12"):
        evaluate_retrieval(tmp_path / "s", RetrievalOptions(pca="all"))
