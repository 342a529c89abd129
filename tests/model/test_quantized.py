"""Eight-bit linear layers against the float layers that they stand in for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fungistore.backbones.quantized import Int8Linear, quantize_linears, quantize_rows


def test_rows_are_rounded_to_127_steps() -> None:
    """Each row by its own scale; a row of zeros stays zero."""
    rows = torch.tensor([[1.0, -0.5, 0.25], [1e-6, -2e-6, 0.0], [0.0, 0.0, 0.0]])
    quantized, scale = quantize_rows(rows)
    assert quantized.dtype == torch.int8
    assert quantized.abs().amax(1).tolist() == [127, 127, 0]
    assert ((quantized * scale - rows).abs() <= 0.5 * scale + 1e-12).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 700), (1, 1)])
def test_a_layer_is_the_product_of_what_was_rounded(shape: tuple[int, ...], bias: bool) -> None:
    """Exactly the float product of the rounded rows and weights; near the layer's own."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias)
    tokens = torch.randn(*shape, 64) * torch.rand(*shape, 1) * 100
    ours = Int8Linear(linear)(tokens)

    weight, weight_scale = quantize_rows(linear.weight.detach())
    rows, scale = quantize_rows(tokens.flatten(0, -2))
    exact = (rows.double() * scale) @ (weight.double() * weight_scale).T
    exact = exact + (linear.bias.detach() if bias else 0)
    torch.testing.assert_close(ours.flatten(0, -2).double(), exact, atol=1e-4, rtol=1e-5)
    cosine = nn.functional.cosine_similarity(ours, linear(tokens), dim=-1)
    assert cosine.min() > 0.999


def test_all_linear_layers_of_a_module_are_replaced_and_nothing_else() -> None:
    """At any depth, each in its place."""
    module = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)))
    quantize_linears(module)
    assert [type(layer) for layer in module.modules()] == [
        nn.Sequential,
        Int8Linear,
        nn.Sequential,
        nn.LayerNorm,
        Int8Linear,
    ]
