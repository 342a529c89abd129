"""Losses of classification against torch's own and against the papers' formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.nn import functional

from fungistore.errors import UsageError
from fungistore.loff.options import TrainOptions
from fungistore.training.losses import ClassificationLoss

LABELS = np.array([0] * 60 + [1] * 25 + [2] * 5)
SIZES = np.array([60, 25, 5])
CPU = torch.device("cpu")


def loss_of(name, smoothing=0.0, labels=LABELS, classes=3):
    return ClassificationLoss.named(name, labels, classes, smoothing=smoothing, device=CPU)


def batch(count=40, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 3, generator=random)
    return logits, torch.randint(3, (count,), generator=random)


def one_hot(labels):
    return functional.one_hot(labels, 3).float()


WEIGHT = torch.tensor(LABELS.size / (3 * SIZES), dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "given", "smoothing"),
    [("cross-entropy", None, smoothing) for smoothing in (0.0, 0.1, 1.0)]
    + [("weighted", WEIGHT, 0.0)],
)
def test_hard_targets_give_torchs_losses(name, given, smoothing):
    """Plain and weighted ones, value and gradient."""
    logits, labels = batch()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = loss_of(name, smoothing)(ours, one_hot(labels))
    expected = functional.cross_entropy(theirs, labels, given, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_rows_weight_is_inverse_to_its_class_and_one_on_average():
    """So each class has the same part of the whole, and the learning rate its meaning."""
    weights = loss_of("weighted").weights.numpy()
    assert weights[LABELS].mean() == pytest.approx(1)
    np.testing.assert_allclose(weights * SIZES, (weights * SIZES)[0])
    assert loss_of("weighted", labels=LABELS, classes=5).weights[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_balanced_softmax_is_the_papers_equation(smoothing):
    """-log of n_y exp(logit_y) over the sum of n_c exp(logit_c), with soft targets too."""
    logits, labels = batch()
    share = 0.3
    targets = share * one_hot(labels) + (1 - share) * one_hot(labels.flip(0))
    numbers = logits.double().numpy()
    parts = SIZES * np.exp(numbers)
    chances = parts / parts.sum(axis=1, keepdims=True)
    smooth = targets.numpy() * (1 - smoothing) + smoothing * SIZES / SIZES.sum()
    expected = -(smooth * np.log(chances)).sum(axis=1).mean()
    found = loss_of("balanced-softmax", smoothing)(logits, targets)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_weighted_soft_targets_are_mixtures_of_hard_ones():
    """A batch of mixed rows loses as the rows it was mixed from, each with its share."""
    logits, labels = batch()
    share, others = 0.3, labels.flip(0)
    loss = loss_of("weighted", 0.1)
    mixed = loss(logits, share * one_hot(labels) + (1 - share) * one_hot(others))
    both = torch.cat([logits, logits])
    weights = loss.weights
    everyone = torch.cat([labels, others])
    rows = functional.cross_entropy(both, everyone, label_smoothing=0.1, reduction="none")
    rows = rows * weights[everyone]
    shares = torch.tensor([share, 1 - share]).repeat_interleave(len(labels))
    total = (shares * weights[everyone]).sum()
    torch.testing.assert_close(mixed, (shares * rows).sum() / total)


@pytest.mark.parametrize("name", ["weighted", "balanced-softmax"])
def test_classes_without_rows_do_no_harm(name):
    """Names that no training row has leave losses and gradients finite, smoothed or not."""
    for smoothing in (0.0, 0.2):
        logits = torch.zeros(4, 5, requires_grad=True)
        targets = functional.one_hot(torch.tensor([0, 1, 2, 0]), 5).float()
        loss = loss_of(name, smoothing, classes=5)(logits, targets)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["weighted", "balanced-softmax"])
def test_both_even_out_what_the_sizes_of_classes_teach(name):
    """A bias alone, at its best: plain it gives the classes' sizes, else all classes alike."""
    chances = {}
    for which in ("cross-entropy", name):
        loss, bias = loss_of(which), torch.zeros(3, requires_grad=True)
        optimiser = torch.optim.LBFGS([bias], max_iter=50)

        def step(loss=loss, bias=bias, optimiser=optimiser):
            optimiser.zero_grad()
            value = loss(bias.expand(len(LABELS), -1), one_hot(torch.from_numpy(LABELS)))
            value.backward()
            return value

        optimiser.step(step)
        chances[which] = softmax(bias.detach().numpy())
    np.testing.assert_allclose(chances["cross-entropy"], SIZES / SIZES.sum(), atol=1e-3)
    np.testing.assert_allclose(chances[name], 1 / 3, atol=1e-3)


@pytest.mark.parametrize("name", ["weighted", "balanced-softmax"])
def test_smoothing_favours_no_rare_class(name):
    """Logits at their best name each row's own class: not a rare one, nor one without rows."""
    labels = torch.tensor([0] * 900 + [1] * 90 + [2])
    loss = loss_of(name, 0.1, labels.numpy(), classes=4)
    table = torch.zeros(3, 4, requires_grad=True)  # the logits of a row, by its class
    optimiser = torch.optim.LBFGS([table], max_iter=50, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        value = loss(table[labels], functional.one_hot(labels, 4).float())
        value.backward()
        return value

    optimiser.step(step)
    chances = table.detach().softmax(dim=1)
    assert chances.argmax(dim=1).tolist() == [0, 1, 2]
    assert chances.diagonal().min() > 0.7


def test_evening_out_twice_is_refused():
    """--balanced and a loss for unequal classes; an unknown loss names the known ones."""
    for name in ("weighted", "balanced-softmax"):
        with pytest.raises(UsageError, match="loss") as caught:
            TrainOptions(balanced=True, loss=name)
        assert "twice" in caught.value.hint
    with pytest.raises(UsageError, match="balanced-softmax"):
        TrainOptions(loss="focal")
