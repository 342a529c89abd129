"""Comparing features: CKA against its definition, classes against scikit-learn, readable plots."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fungi_cli.main import app
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import FungiError, UsageError
from fungistore.evaluation.compare import Comparison, compare_features, linear_cka
from fungistore.evaluation.options import CompareOptions
from fungistore.evaluation.plots import MOST_BARS, check_plot, draw_comparison, save_plot
from fungistore.machine.context import QUIET, Context
from fungistore.matrices.blocks import open_features
from fungistore.store.store import Store

ROWS, CLASSES, TRAIN = 120, 6, 80


def blocks(rows: int = ROWS, classes: int = CLASSES) -> tuple[dict[str, np.ndarray], list[str]]:
    vectors, labels = clustered(rows, classes, 10, noise=1.5)
    other, _ = clustered(rows, classes, 7, seed=1, noise=1.5)
    mixed = (vectors[:, :5] + 0.5 * other[:, :5]).astype(np.float16)
    return {"embeddings": vectors, "gradients/kl": mixed, "gradients/dino": other}, labels


def make_world(root: Path) -> tuple[Store, dict[str, np.ndarray], list[str]]:
    arrays, labels = blocks()
    splits = ["train"] * TRAIN + ["test"] * (ROWS - TRAIN)
    return make_store(root / "s", arrays, labels, splits), arrays, labels


def gram_cka(one: np.ndarray, other: np.ndarray) -> float:
    """The CKA by its definition: the HSIC of two centred [n, n] Gram matrices."""
    centre = np.eye(len(one)) - 1 / len(one)
    grams = [centre @ (x @ x.T) @ centre for x in (one.astype(float), other.astype(float))]
    hsic = [[np.trace(a @ b) for b in grams] for a in grams]
    return hsic[0][1] / np.sqrt(hsic[0][0] * hsic[1][1])


def test_cka_is_that_of_gram_matrices(tmp_path: Path) -> None:
    """Sums over units give what the definition gives, for every two blocks, NaN rows left out."""
    store, arrays, labels = make_world(tmp_path)
    arrays["embeddings"][5] = np.nan
    store = make_store(tmp_path / "t", arrays, labels)
    matrix = open_features(store)
    rows = np.delete(np.arange(ROWS), 5)
    found = linear_cka(matrix, rows)
    assert (found.features, found.n) == (("embeddings", "kl", "dino"), ROWS - 1)
    normed = [normalize(array[rows].astype(np.float32)) for array in arrays.values()]
    expected = [[gram_cka(one, other) for other in normed] for one in normed]
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-5)
    assert np.diag(found.matrix) == pytest.approx(1)


def test_cka_ignores_rotation_and_scale(tmp_path: Path) -> None:
    vectors, labels = clustered(60, 3, 8)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    turned = (3 * vectors @ rotation).astype(np.float32)
    store = make_store(tmp_path / "s", {"embeddings": vectors, "gradients/kl": turned}, labels)
    found = linear_cka(open_features(store), np.arange(60))
    assert found.matrix[0][1] == pytest.approx(1, abs=1e-6)


def test_a_constant_block_has_no_cka(tmp_path: Path) -> None:
    vectors, labels = clustered(60, 3, 8)
    arrays = {"embeddings": vectors, "gradients/kl": np.ones((60, 3), np.float32)}
    make_store(tmp_path / "s", arrays, labels, ["train", "test"] * 30)
    with pytest.raises(FungiError, match="are the same") as caught:
        compare_features(tmp_path / "s", CompareOptions())
    assert "kl" in str(caught.value)


def test_classes_agree_with_scikit_learn(tmp_path: Path) -> None:
    """Each class's accuracy is that of scikit-learn's neighbours; the difference is B less A."""
    _, arrays, labels = make_world(tmp_path)
    options = CompareOptions(a=("embeddings",), b=("kl", "embeddings"), k=7)
    found = compare_features(tmp_path / "s", options)
    parts = [normalize(arrays[name].astype(np.float32)) for name in ("embeddings", "gradients/kl")]
    names = np.array(labels)
    right = []
    for rows in (parts[0], np.hstack(parts)):
        model = KNeighborsClassifier(7).fit(rows[:TRAIN], names[:TRAIN])
        right.append(model.predict(rows[TRAIN:]) == names[TRAIN:])
    assert [score.features for score in found.scores] == [("embeddings",), ("embeddings", "kl")]
    assert [score.metrics["accuracy"] for score in found.scores] == [x.mean() for x in right]
    assert {one.name for one in found.classes} == set(labels)
    for one in found.classes:
        own = names[TRAIN:] == one.name
        expected = (own.sum(), right[0][own].mean(), right[1][own].mean())
        assert (one.n_test, one.accuracy_a, one.accuracy_b) == pytest.approx(expected)
        assert one.difference == pytest.approx(expected[2] - expected[1])
    gains = [one.difference for one in found.classes]
    assert gains == sorted(gains, reverse=True)


def test_the_saved_json_says_what_it_was_made_from(tmp_path: Path) -> None:
    """Both scores, the CKA, the classes, and the fingerprint of every block in it."""
    store, arrays, _ = make_world(tmp_path)
    found = compare_features(tmp_path / "s", CompareOptions(b=("kl",)))
    saved = found.save(QUIET)
    assert saved is not None
    path = Path(saved)
    assert path.parent.name == "evals"
    document = json.loads(path.read_text())
    prints = {array.name: array.fingerprint for array in store.arrays("set").values()}
    assert document["protocol"]["cka"]["fingerprints"] == prints
    assert document["scores"][1]["fingerprints"] == {
        key: prints[key] for key in ("set/gradients/kl",)
    }
    assert np.shape(document["cka"]["matrix"]) == (len(arrays), len(arrays))
    assert len(document["classes"]) == CLASSES


def test_rows_that_cannot_be_used_are_counted_and_left_out(tmp_path: Path) -> None:
    arrays, names = blocks()
    labels: list[str | None] = list(names)
    arrays["gradients/kl"][3], labels[4], labels[ROWS - 1] = np.nan, None, None
    splits = ["train"] * TRAIN + ["test"] * (ROWS - TRAIN)
    make_store(tmp_path / "s", arrays, labels, splits)
    found = compare_features(tmp_path / "s", CompareOptions())
    assert {(s.n_train, s.n_test) for s in found.scores} == {(TRAIN - 2, ROWS - TRAIN - 1)}
    assert found.cka.n == ROWS - 1
    assert list(found.excluded.values()) == [2, 1]


def test_more_neighbours_than_training_rows_are_said(tmp_path: Path) -> None:
    """All rows vote then, and the protocol has their number."""
    vectors, labels = clustered(20, 2, 6)
    store = make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    said: list[str] = []
    options = CompareOptions(holdout=0.5, a=("embeddings",))
    done = compare_features(store.root, options, context=Context(Notices(said)))
    assert said[0].startswith("--k 20 of 10 training rows: 10 are used; all of them vote, so")
    assert done.protocol["k"] == 10


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (["one"] * 20, {"holdout": 0.5, "k": 3}, "of one class"),
        ([None] * 20, {"holdout": 0.5, "k": 3}, "no labels"),
        (
            ["a", "b"] * 10,
            {"holdout": 0.5, "k": 0},
            "--k\n  expected: a whole number of 1 or more",
        ),
        (["a", "b"] * 10, {"holdout": 0.5, "k": 3, "b": ("dino",)}, "some of embeddings"),
        (["a", "b"] * 10, {"features": ("dino",)}, "no such feature: dino"),
    ],
)
def test_what_cannot_be_compared_is_explained(
    tmp_path: Path, labels: list[str | None], arguments: dict[str, Any], words: str
) -> None:
    vectors, _ = clustered(20, 2, 6)
    make_store(tmp_path / "s", {"embeddings": vectors}, labels)
    with pytest.raises(UsageError) as caught:
        compare_features(tmp_path / "s", CompareOptions(**arguments))
    assert words in str(caught.value)


def compared(root: Path, classes: int) -> Comparison:
    arrays, labels = blocks(classes * 4, classes)
    make_store(root / "s", arrays, labels)
    return compare_features(root / "s", CompareOptions(holdout=0.5, k=1))


@pytest.mark.parametrize("classes", [3, MOST_BARS + 20])
def test_plots_name_their_classes(tmp_path: Path, classes: int) -> None:
    """An SVG holds a bar for each class; of very many, the best and the worst."""
    found = compared(tmp_path, classes)
    names = {
        label.get_text()
        for axes in draw_comparison(found).axes[1:]
        for label in axes.get_yticklabels()
    }
    shown = {one.name for one in found.classes if one.name in names}
    assert len(shown) == (classes if classes <= MOST_BARS else MOST_BARS - 2)
    assert {found.classes[0].name, found.classes[-1].name} <= shown
    save_plot(found, tmp_path / "p.svg")
    ElementTree.parse(tmp_path / "p.svg")


def test_a_png_is_an_image(tmp_path: Path) -> None:
    save_plot(compared(tmp_path, 3), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.width > image.height > 500


def test_a_plot_that_cannot_be_saved_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="format"):
        check_plot(tmp_path / "plot.docx")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    with pytest.raises(UsageError) as caught:
        check_plot(tmp_path / "plot.png")
    assert "pip install 'matplotlib>=" in str(caught.value)


def test_the_command_prints_three_tables_and_draws(tmp_path: Path) -> None:
    """CKA, classes and combinations on stdout; the plot's name on stderr; JSON has them all."""
    make_world(tmp_path)
    plot = tmp_path / "p.svg"
    command = ["eval", "compare", str(tmp_path / "s")]
    table = CliRunner().invoke(app, [*command, "--b", "kl", "--plot", str(plot)])
    assert table.exit_code == 0, table.stderr
    heads = [line.split()[0] for line in table.stdout.splitlines() if line.strip()]
    assert [heads.index(word) for word in ("linear", "class", "combination")] == [0, 4, 11]
    assert f"plot: {plot}" in table.stderr
    assert plot.is_file()
    document = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert document["cka"]["features"] == ["embeddings", "kl", "dino"]
    refused = CliRunner().invoke(
        app, ["eval", "compare", str(tmp_path / "s"), "--plot", str(tmp_path / "p.gif")]
    )
    assert refused.exit_code == 2
