"""The linear probe minimises the paper's loss and chooses its strength without the test rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store
from fungistore.errors import UsageError
from fungistore.evaluation.linear import evaluate_linear, fit_probe
from fungistore.evaluation.options import LinearOptions
from fungistore.machine.context import Context
from fungistore.matrices.blocks import open_features
from fungistore.matrices.splits import choose_split, stratified_holdout

ROWS = 300


def store_of(root, classes=3, splits=None, noise=3.0):
    vectors, labels = clustered(ROWS, classes, 10, noise=noise)
    other, _ = clustered(ROWS, classes, 10, seed=1, noise=noise)
    arrays = {"embeddings": vectors, "gradients/kl": other}
    return make_store(root, arrays, labels, splits, unit_rows=128)


def softmax_probe(vectors, labels, strength):
    """Minimise mean cross-entropy + strength / 2 * |W|^2 by Newton-like steps of torch."""
    x, y = torch.from_numpy(vectors), torch.from_numpy(labels).long()
    weight = torch.zeros(int(y.max()) + 1, x.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight],
        max_iter=2000,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss():
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight.T, y)
        value = value + strength / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weight.detach().numpy()


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("strength", [5e-4, 1e-2])
def test_the_probe_is_a_regularised_softmax(classes, strength):
    vectors, _ = clustered(ROWS, classes, 10, noise=3.0)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    labels = (np.arange(ROWS) % classes).astype(np.int32)
    weight = softmax_probe(vectors, labels, strength)
    probe, converged = fit_probe(vectors, labels, strength, 1000)
    assert converged
    margins = vectors @ (weight - weight.mean(axis=0)).T
    ours = probe.decision_function(vectors)
    if classes == 2:
        margins = margins[:, 1] - margins[:, 0]
    else:
        ours = ours - ours.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, margins, atol=0.02 * np.abs(margins).max())


def test_the_strength_with_the_best_validation_accuracy_is_fitted_on_all_of_train(tmp_path):
    store = store_of(tmp_path / "s")
    options = LinearOptions(holdout=0.3, seed=5)
    (score,) = evaluate_linear(store.root, options).scores
    _, vectors = open_features(store).load()
    vectors, labels = vectors.astype(np.float64), store.samples.labels()
    split = choose_split(store, holdout=0.3, seed=5)
    fitted, held = stratified_holdout(split.train, labels, 0.2, 5, "validation")
    accuracies = [
        fit_probe(vectors[fitted], labels[fitted], s, 300)[0].score(vectors[held], labels[held])
        for s in options.strengths
    ]
    assert score.protocol["validation_accuracies"] == accuracies
    best = options.strengths[int(np.argmax(accuracies))]
    assert score.protocol["strength"] == best
    probe, _ = fit_probe(vectors[split.train], labels[split.train], best, 300)
    assert score.metrics["accuracy"] == probe.score(vectors[split.test], labels[split.test])
    assert not set(held) & set(split.test)


def test_a_validation_split_of_the_store_is_used(tmp_path):
    splits = [["train", "train", "val", "test", "train"][row % 5] for row in range(ROWS)]
    (score,) = evaluate_linear(store_of(tmp_path / "s", splits=splits).root, LinearOptions()).scores
    assert score.protocol["validation_rows"] == 60
    assert (score.n_train, score.n_test) == (180, 60)


def test_two_classes_have_a_roc_auc(tmp_path):
    (score,) = evaluate_linear(
        store_of(tmp_path / "s", classes=2).root, LinearOptions(holdout=0.3)
    ).scores
    assert 0.5 < score.metrics["roc_auc"] <= 1


def test_a_solver_that_did_not_converge_says_so(tmp_path):
    said = []
    options = LinearOptions(holdout=0.3, max_iter=1)
    (score,) = evaluate_linear(
        store_of(tmp_path / "s").root, options, context=Context(Notices(said))
    ).scores
    assert not score.protocol["converged"]
    assert any("not converged after 1" in text for text in said)


def test_combinations_and_pca(tmp_path):
    options = LinearOptions(combinations="nested", pca_dims=(None, 6), holdout=0.3)
    scores = evaluate_linear(store_of(tmp_path / "s").root, options).scores
    assert [score.dim for score in scores] == [10, 6, 20, 6]


def test_strengths_have_to_be_positive():
    with pytest.raises(UsageError, match=r"--strengths\n  expected: .*above 0"):
        LinearOptions(strengths=(0.0,))


def test_the_command(tmp_path):
    store = store_of(tmp_path / "s")
    arguments = ["eval", "linear", str(store.root), "--holdout", "0.3", "--strengths", "1e-4,1e-3"]
    run = CliRunner().invoke(app, [*arguments, "--json"])
    assert run.exit_code == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["protocol"]["strengths"] == [1e-4, 1e-3]
    assert document["scores"][0]["protocol"]["strength"] in (1e-4, 1e-3)
    bad = CliRunner().invoke(app, ["eval", "linear", str(store.root), "--strengths", "much"])
    assert bad.exit_code == 2
