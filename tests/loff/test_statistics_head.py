"""The head of statistics over cells, against NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import erf

from fungistore.loff.head import HeadSpec
from fungistore.loff.heads import build_head


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("embedding_dim", [None, 6])
@torch.no_grad()
def test_logits_are_of_maximum_mean_and_deviation_over_the_cells(embedding_dim):
    """Of all cells, or of those that are kept; the embedding stands beside the statistics."""
    spec = HeadSpec("stat-pool", 5, 3, (2, 4), standardise=False, embedding_dim=embedding_dim)
    head = build_head(spec, seed=0).eval()
    for parameter in head.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    features, embedding = torch.randn(7, 2, 4, 5), torch.randn(7, 6)
    cells = torch.stack([torch.randperm(8)[:3] for _ in range(7)])
    state = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}

    def projected(values, name):
        linear = values @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"]
        return gelu(normed(linear) * state[f"{name}.1.weight"] + state[f"{name}.1.bias"])

    for kept in (None, cells):
        tokens = features.flatten(1, 2).double().numpy()
        if kept is not None:
            tokens = np.take_along_axis(tokens, kept.numpy()[..., None], axis=1)
        hidden = projected(tokens, "embed")
        deviation = np.sqrt(hidden.var(axis=1) + 1e-6)
        pooled = np.concatenate([hidden.max(axis=1), hidden.mean(axis=1), deviation], axis=1)
        pooled = normed(pooled) * state["norm.weight"] + state["norm.bias"]
        given = None
        if embedding_dim is not None:
            given = embedding
            beside = projected(embedding.double().numpy(), "embed_sample")
            pooled = np.concatenate([pooled, beside], axis=1)
        expected = pooled @ state["classifier.weight"].T + state["classifier.bias"]
        said = head.classify(features, given, kept).numpy()
        np.testing.assert_allclose(said, expected, atol=1e-5)


def test_cells_that_are_all_alike_have_finite_gradients():
    """The deviation of a constant map is zero, where a square root has no slope."""
    head = build_head(HeadSpec("stat-pool", 5, 3, (2, 2)), seed=0)
    features = torch.ones(2, 2, 2, 5, requires_grad=True)
    head.classify(features).sum().backward()
    assert torch.isfinite(features.grad).all()
