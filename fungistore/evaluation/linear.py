"""`fungi eval linear`: a linear probe (FUNGI, tables 15 and 16)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from fungistore.errors import UsageError
from fungistore.evaluation.options import ALL, LinearOptions
from fungistore.evaluation.predictions import Predictions
from fungistore.evaluation.reduction import Reduction, fit_reduction
from fungistore.evaluation.result import Evaluation
from fungistore.evaluation.table import Outcome, evaluate_table
from fungistore.evaluation.task import Task, TaskRows
from fungistore.fingerprint import Config
from fungistore.machine.context import DEFAULT, Context
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.matrices.choices import Run
from fungistore.store.samples import Rows

VALIDATION_PART = 0.2  # FUNGI's reference code
TOLERANCE = 1e-5  # of the gradient: the loss is then within 0.1 % of its minimum (measured)


def evaluate_linear(
    store: str | Path,
    options: LinearOptions = LinearOptions(),
    *,
    context: Context = DEFAULT,
) -> Evaluation:
    """Train a multinomial logistic regression without intercept on frozen features, and test it.

    The loss is mean cross-entropy + strength / 2 * |W|^2. The strength is the one with the best
    validation accuracy, the smallest on ties. Validation rows are the store's split "val", or a
    fifth of each training class; the final fit is then on all training rows (with a "val" split
    of the store: on its "train" rows). Needs memory for the training rows in float64.

    With shots, the fits are on them alone, and validation rows are, without a "val" split, a fifth
    of each class of the other training rows: as many as FUNGI's code takes, which holds them out
    first. Where the other rows are of fewer than two classes, a fifth of each class's shots, as
    of all training rows.

    Args:
        store: the store's directory.
        options: what to evaluate, and how.
        context: its reporter is told what happens, its stop asked between runs.

    Raises:
        UsageError: features, labels or splits are missing, or all shots are of one class.
        MismatchError: a stored PCA was fitted on test rows.
    """

    LinearOptions.accept(options)

    def classify(task: Task, matrix: FeatureMatrix, dim: int | None, run: Run) -> Outcome:
        reduction = fit_reduction(matrix, task.split.train, dim, context, options, run.seed)
        probe, protocol = choose_probe(task, matrix, reduction, run.rows_seed, options)
        if not protocol["validation_rows"]:
            one_group = "" if task.split.groups is None else ", or one group has all"
            context.reporter.notice(
                f"{matrix.name}: every class has one training row{one_group}, so there are none to "
                f"choose the strength on: {protocol['strength']}, the middle one"
            )
        if not protocol["converged"]:
            context.reporter.notice(
                f"{matrix.name}: not converged after {options.max_iter} iterations"
            )
        parts = [ranked(probe, rows) for _, rows in TaskRows(matrix, task.split.test, reduction)]
        predictions = Predictions.joined(parts)
        return Outcome(predictions, reduction.dim, reduction.protocol | protocol)

    def check(task: Task) -> None:
        if len(np.unique(task.labels[task.split.train])) < 2:
            raise UsageError(
                "all shots are of one class, which leaves nothing to learn",
                where="--shot-rule proportional",
                expected="shots of two classes or more",
                hint="more --shots, or --shot-rule random, which takes some of each class",
            )

    few = options.shots != (ALL,)
    others = f"{VALIDATION_PART} of the other training rows, or of the shots where there are none"
    protocol: Config = {
        "validation": f'the split "val", or {others if few else f"{VALIDATION_PART} of train"}',
        "final_fit": "the shots" if few else "all training rows",
        "model": "multinomial logistic regression, L2, no intercept",
        "solver": f"scikit-learn lbfgs, tolerance {TOLERANCE}, float64",
        "max_iter": options.max_iter,
        "strengths": list(options.strengths),
    }
    return evaluate_table(
        store,
        "linear",
        options,
        protocol,
        classify,
        context,
        check=check,
        draws_validation=len(options.strengths) > 1,
    )


def choose_probe(
    task: Task, matrix: FeatureMatrix, reduction: Reduction, seed: int, options: LinearOptions
) -> tuple[LogisticRegression, Config]:
    """Choose the strength on validation rows and fit the probe on all training rows.

    Where every class has one training row, or all are of one group, none can be held out: the
    middle strength is taken.

    Returns:
        The probe, and what was decided: validation rows and accuracies, strength, convergence.
    """
    fitted, validation = _validated(task, seed)

    def load(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        numbers, vectors = matrix.load(rows)
        return reduction(vectors).astype(np.float64), task.labels[numbers]

    accuracies: list[float] = []
    best = sorted(options.strengths)[len(options.strengths) // 2]
    if len(validation):
        known, unknown = load(fitted), load(validation)
        accuracies = [
            float(fit_probe(*known, strength, options.max_iter)[0].score(*unknown))
            for strength in options.strengths
        ]
        best = options.strengths[int(np.argmax(accuracies))]
        del known, unknown
    probe, converged = fit_probe(*load(task.split.train), best, options.max_iter)
    return probe, {
        "validation_rows": len(validation),
        "validation_accuracies": accuracies,
        "strength": best,
        "converged": converged,
    }


def _validated(task: Task, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to fit on while the strength is chosen, and those to choose it on."""
    train, labels = task.split.train, task.labels
    if len(task.split.validation):
        return train, task.split.validation
    _, others = task.split.hold_out(task.spare, labels, VALIDATION_PART, seed, "validation")
    if len(np.unique(labels[others])) > 1:
        return train, others
    return task.split.hold_out(train, labels, VALIDATION_PART, seed, "validation")


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


def ranked(probe: LogisticRegression, vectors: NDArray[np.float32]) -> Predictions:
    """Return the classes of each row by falling probability, ties to the smallest label."""
    probability = probe.predict_proba(vectors.astype(np.float64))
    return Predictions.of_probabilities(probability, probe.classes_)
