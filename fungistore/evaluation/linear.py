"""`fungi eval linear`: a linear probe (FUNGI, tables 15 and 16)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from fungistore.blocks import FeatureMatrix, Rows
from fungistore.errors import UsageError
from fungistore.evaluation.metrics import Predictions, accuracy_interval, classification_metrics
from fungistore.evaluation.reduction import (
    Combinations,
    combine,
    fit_reduction,
    refuse_reduced_pca,
)
from fungistore.evaluation.result import Evaluation, Score
from fungistore.evaluation.task import Task, TaskRows, open_task
from fungistore.report import Reporter, Silent, stop_if_asked
from fungistore.splits import stratified_holdout

STRENGTHS = (5e-6, 1.2875e-4, 2.525e-4, 3.7625e-4, 5e-4)  # FUNGI's reference code
VALIDATION_PART = 0.2  # the same
ITERATIONS = 300  # the same
TOLERANCE = 1e-5  # of the gradient: the loss is then within 0.1 % of its minimum (measured)
RANKED = 5


@dataclass(frozen=True)
class LinearOptions:
    """Settings of `fungi eval linear`.

    Attributes:
        features: blocks; default: all vector features.
        pca: a stored PCA, instead of blocks.
        feature_set: may be left out where there is one.
        combinations: "one", "nested" or "all", as for the nearest neighbours.
        pca_dims: PCAs to fit on the training rows of each combination; None is without one.
        strengths: regularisation strengths to choose from.
        max_iter: of the solver.
        holdout: part of each class to test on, where the store has no test split.
        seed: of the holdout and of the validation rows.
        kappa: also the quadratic kappa, for ordered classes.
    """

    features: tuple[str, ...] | None = None
    pca: str | None = None
    feature_set: str | None = None
    combinations: Combinations = "one"
    pca_dims: tuple[int | None, ...] = (None,)
    strengths: tuple[float, ...] = STRENGTHS
    max_iter: int = ITERATIONS
    holdout: float | None = None
    seed: int = 0
    kappa: bool = False


def evaluate_linear(
    store: str | Path,
    options: LinearOptions,
    *,
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Train a multinomial logistic regression without intercept on frozen features, and test it.

    The loss is mean cross-entropy + strength / 2 * |W|^2. The strength is the one with the best
    validation accuracy, the smallest on ties. Validation rows are the store's split "val", or a
    fifth of each training class; the final fit is then on all training rows (with a "val" split
    of the store: on its "train" rows). Needs memory for the training rows in float64.

    Args:
        store: the store's directory.
        options: what to evaluate, and how.
        reporter: is told what happens; default: nobody.
        stop: asked between combinations.

    Raises:
        UsageError: features, labels or splits are missing.
        MismatchError: a stored PCA was fitted on test rows.
    """
    reporter = reporter or Silent()
    refuse_reduced_pca(options.pca, options.pca_dims, options.combinations)
    if not options.strengths or min(options.strengths) <= 0 or options.max_iter < 1:
        raise UsageError("strengths and iterations have to be positive", where="--strengths")
    task = open_task(
        store,
        options.features,
        pca=options.pca,
        feature_set=options.feature_set,
        holdout=options.holdout,
        seed=options.seed,
    )
    fitted, validation = task.split.train, task.split.validation
    if carved := not len(validation):
        fitted, validation = stratified_holdout(
            task.split.train, task.labels, VALIDATION_PART, options.seed, "validation"
        )
    scores = []
    chosen = combine(task.matrix.features, options.combinations)
    reporter.begin("combinations", len(chosen) * len(options.pca_dims))
    for features in chosen:
        for dim in options.pca_dims:
            stop_if_asked(stop)
            matrix = task.matrix.subset(features)
            scores.append(_score(task, matrix, fitted, validation, dim, options, reporter))
            reporter.advance(1)
    reporter.end()
    origin = f"{VALIDATION_PART} of train, seed {options.seed}" if carved else "val"
    return Evaluation(
        kind="linear",
        store=str(task.store.root),
        feature_set=task.matrix.feature_set,
        protocol={
            "split": task.split.description,
            "validation": {"from": origin, "rows": len(validation)},
            "final_fit": "all training rows",
            "model": "multinomial logistic regression, L2, no intercept",
            "solver": f"scikit-learn lbfgs, tolerance {TOLERANCE}, float64",
            "max_iter": options.max_iter,
            "strengths": list(options.strengths),
            "blocks": "stored PCA" if options.pca else "L2-normalised, concatenated",
            "pca_dims": list(options.pca_dims),
        },
        excluded=task.excluded,
        scores=tuple(scores),
    )


def fit_probe(
    vectors: NDArray[np.float64], labels: NDArray[np.int32], strength: float, max_iter: int
) -> tuple[LogisticRegression, bool]:
    """Fit the probe to vectors [n, d]; also tells whether the solver converged.

    scikit-learn's C weighs the summed loss, so C = 1 / (strength * n). With two classes it fits
    one row of weights w where the softmax has w/2 and -w/2: half the penalty, so twice the C.
    """
    classes = len(np.unique(labels))
    weight = (2 if classes == 2 else 1) / (strength * len(vectors))
    probe = LogisticRegression(C=weight, fit_intercept=False, tol=TOLERANCE, max_iter=max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(vectors, labels)
    return probe, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _score(
    task: Task,
    matrix: FeatureMatrix,
    fitted: Rows,
    validation: Rows,
    dim: int | None,
    options: LinearOptions,
    reporter: Reporter,
) -> Score:
    reduction = fit_reduction(matrix, task.split.train, dim, reporter)

    def load(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        numbers, vectors = matrix.load(rows)
        return reduction(vectors).astype(np.float64), task.labels[numbers]

    accuracies = []
    for strength in options.strengths:
        probe, _ = fit_probe(*load(fitted), strength, options.max_iter)
        accuracies.append(float(probe.score(*load(validation))))
    best = options.strengths[int(np.argmax(accuracies))]
    probe, converged = fit_probe(*load(task.split.train), best, options.max_iter)
    if not converged:
        reporter.notice(f"{matrix.name}: not converged after {options.max_iter} iterations")
    parts = [_ranked(probe, block) for _, block in TaskRows(matrix, task.split.test, reduction)]
    positive = [part.positive for part in parts if part.positive is not None]
    predictions = Predictions(
        np.concatenate([part.ranked for part in parts]),
        np.concatenate(positive) if positive else None,
    )
    truth = task.labels[task.split.test]
    metrics = classification_metrics(truth, predictions, task.classes, kappa=options.kappa)
    return Score(
        features=matrix.features,
        dim=reduction.dim,
        n_train=len(task.split.train),
        n_test=len(truth),
        metrics=metrics,
        spread={"accuracy": accuracy_interval(metrics["accuracy"], len(truth))},
        protocol=reduction.protocol
        | {"strength": best, "validation_accuracies": accuracies, "converged": converged},
        fingerprints=matrix.fingerprints,
    )


def _ranked(probe: LogisticRegression, vectors: NDArray[np.float32]) -> Predictions:
    """Return the classes of each row by falling probability, ties to the smallest label."""
    probability = probe.predict_proba(vectors.astype(np.float64))
    order = np.argsort(-probability, axis=1, kind="stable")[:, :RANKED]
    is_binary = len(probe.classes_) == 2
    return Predictions(
        probe.classes_[order].astype(np.int32), probability[:, 1] if is_binary else None
    )
