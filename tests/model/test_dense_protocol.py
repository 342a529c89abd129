"""`benchmarks/dense_protocol.py`, the plain implementation: golden numbers and autograd.

The golden numbers were computed with the functions of the reference code.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from timm.models import VisionTransformer
from torch.nn import functional as F  # noqa: N812 - everybody's name

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "dense_protocol.py"


@pytest.fixture(scope="module")
def protocol():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("dense_protocol", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "dense_protocol", module)
        spec.loader.exec_module(module)
        yield module


def wave(rows, columns, step):
    """The golden inputs: sin(step * (i * columns + j) + 0.3)."""
    flat = torch.arange(rows * columns, dtype=torch.float64) * step + 0.3
    return flat.sin().view(rows, columns)


@pytest.mark.parametrize(
    ("in_denominator", "loss", "norm"), [(True, 1.513187, 1.456901), (False, -10.431505, 2.837311)]
)
def test_info_nce_is_the_references(protocol, in_denominator, loss, norm):
    """Both forms of the temperature give the golden loss and gradient; what is not kept is out."""
    positives = wave(4, 5, 1.3)[None].requires_grad_()
    negatives = torch.cat([wave(6, 5, 0.7), torch.ones(1, 5, dtype=torch.float64)])[None]
    keep = torch.tensor([[True] * 6 + [False]])
    found = protocol.info_nce(positives, negatives, keep, in_denominator)
    (gradient,) = torch.autograd.grad(found, positives)
    assert float(found.detach()) == pytest.approx(loss, abs=2e-6)
    assert float(gradient.norm()) == pytest.approx(norm, rel=1e-4)


def test_kl_is_that_of_the_uniform_distribution_and_the_logits(protocol):
    """It equals torch's own divergence, token by token, averaged."""
    logits = wave(2, 8, 0.9)[None]
    known = F.kl_div((logits[0] / 15).log_softmax(-1), torch.full((2, 8), 1 / 8), reduction="sum")
    assert float(protocol.kl_to_uniform(logits)) == pytest.approx(float(known) / 2, rel=1e-5)


def test_token_gradients_sum_to_autograds(protocol):
    """The factors' products, over all tokens, are the gradient of weight and bias."""
    torch.manual_seed(0)
    sizes = {"img_size": 28, "patch_size": 14, "embed_dim": 16, "depth": 12, "num_heads": 2}
    model = VisionTransformer(num_classes=0, **sizes).eval()
    layer = model.blocks[11].attn.proj
    tokens, entering = protocol.forward(
        model, torch.randint(256, (2, 3, 28, 28), dtype=torch.uint8)
    )
    assert tokens.shape == (2, 5, 16)
    target = torch.randn(2, 5, 16)

    def loss(values):
        return (values * target).sum()

    a, b = protocol.token_gradients(model, entering, "blocks.11.attn.proj", loss)
    restarted = entering
    for block in model.blocks[10:]:
        restarted = block(restarted)
    torch.testing.assert_close(model.norm(restarted), tokens)
    known = torch.autograd.grad(loss(model.norm(restarted)), [layer.weight, layer.bias])
    torch.testing.assert_close(torch.einsum("bto,bti->oi", b, a), known[0])
    torch.testing.assert_close(b.sum((0, 1)), known[1])


@pytest.mark.parametrize("kind", ["binary", "tensorsketch", "rank-one"])
def test_projections_keep_inner_products_on_average(protocol, kind):
    """They are linear in the outer product, and over draws their products are its own."""
    torch.manual_seed(0)
    b, a = torch.randn(3, 5), torch.randn(3, 7)
    known = (b @ b.T) * (a @ a.T)
    draws = [protocol.draw_projection(kind, (5, 7), 64, seed)(b, a) for seed in range(200)]
    scale = 64 if kind != "tensorsketch" else 1
    mean = sum(x @ x.T for x in draws) / len(draws) / scale
    torch.testing.assert_close(mean, known, rtol=0.15, atol=0.15 * float(known.max()))


def test_tensorsketch_is_the_count_sketch_of_the_outer_product(protocol):
    """Entry (i, j) goes, with the product of the signs, where the two places add up."""
    torch.manual_seed(0)
    b, a = torch.randn(2, 3), torch.randn(2, 4)
    sketch = protocol.draw_projection("tensorsketch", (3, 4), 8, 1)
    known = torch.zeros(2, 8)
    for i in range(3):
        for j in range(4):
            left, right = sketch.left[i], sketch.right[j]
            place = (int(left.abs().argmax()) + int(right.abs().argmax())) % 8
            known[:, place] += left.sum() * right.sum() * b[:, i] * a[:, j]
    torch.testing.assert_close(sketch(b, a), known)


def test_patch_scores_are_the_references(protocol):
    """Rows 0011/0011/0222/0222 in patches of two pixels: scores 2, 1, 4, 2."""
    rows = ["0011", "0011", "0222", "0222"]
    mask = torch.tensor([[int(value) for value in row] for row in rows])
    counts = protocol.cell_counts(mask, 2, 3)
    assert counts[2].tolist() == [2, 0, 2]
    assert protocol.patch_scores(counts).tolist() == [2, 1, 4, 2]


def test_cross_attention_is_the_references(protocol):
    """The golden neighbours and labels give the golden soft labels."""
    unit = {name: F.normalize(torch.tensor(v), dim=0) for name, v in VECTORS.items()}
    cosines = torch.stack(
        [torch.stack([unit[q] @ unit[key] for key in keys]) for q, keys in NEIGHBOURS.items()]
    )
    labels = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [0.5, 0.5, 0]]])
    soft = protocol.cross_attention(cosines, labels, 0.1)
    known = torch.tensor([[0.949258, 0.050742, 0.0], [0.025371, 0.025371, 0.949258]])
    torch.testing.assert_close(soft, known, atol=1e-6, rtol=0)


VECTORS = {"east": (1.0, 0.0), "north": (0.0, 2.0), "between": (1.0, 1.0)}
NEIGHBOURS = {"east": ("east", "between"), "north": ("north", "between")}


def test_iou_is_the_references_and_leaves_absent_classes_out(protocol):
    """True 00011222, predicted 00111202: 0.611111; a class that neither has is none."""
    true, predicted = (torch.tensor([int(c) for c in text]) for text in ("00011222", "00111202"))
    scores = protocol.intersection_over_union(protocol.confusion_of(true, predicted, 4))
    assert scores.isnan().tolist() == [False, False, False, True]
    assert float(scores[:3].mean()) == pytest.approx(0.611111, abs=1e-6)


def test_a_query_finds_the_nearest_of_other_images(protocol):
    """Vectors of the query's own image are passed over."""
    bank = torch.eye(3)
    owners = torch.tensor([0, 1, 2])
    _, places = protocol.nearest(bank, bank, 1)
    assert places.flatten().tolist() == [0, 1, 2]
    cosines, places = protocol.nearest(bank, bank, 1, owners, owners)
    assert (places.flatten() != owners).all()
    assert cosines.max() == 0
