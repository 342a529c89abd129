"""Eight-bit linear layers against the float layers that they stand in for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fungistore.backbones.quantized import (
    Int8Linear,
    PolynomialGELU,
    multiplies_exactly,
    quantize_linears,
    quantize_tokens,
    quantize_weight,
    spread,
)

exact_cpu = pytest.mark.skipif(not multiplies_exactly(), reason="needs VNNI instructions")


def test_weights_are_rounded_to_127_steps_either_side() -> None:
    """Each row by its own scale; a row of zeros stays zero."""
    rows = torch.tensor([[1.0, -0.5, 0.25], [1e-6, -2e-6, 0.0], [0.0, 0.0, 0.0]])
    quantized, scale = quantize_weight(rows)
    assert quantized.dtype == torch.int8
    assert quantized.abs().amax(1).tolist() == [127, 127, 0]
    assert ((quantized * scale[:, None] - rows).abs() <= 0.5 * scale[:, None] + 1e-12).all()


def test_tokens_are_rounded_to_255_steps_between_their_least_and_largest() -> None:
    """Each token by its own range, wherever that lies; a token of one value is kept."""
    rows = torch.tensor([[1.0, -0.5, 0.25], [1e-6, -2e-6, 0.0], [7.0, 7.5, 8.0], [3.0, 3.0, 3.0]])
    quantized, step, least = quantize_tokens(rows)
    assert quantized.dtype == torch.uint8
    assert quantized.amax(1).tolist() == [255, 255, 255, 0]
    assert quantized.amin(1).tolist() == [0, 0, 0, 0]
    assert ((quantized * step + least - rows).abs() <= 0.5 * step + 1e-6 * rows.abs()).all()


@exact_cpu
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 700), (1, 1)])
def test_a_layer_is_the_product_of_what_was_rounded(shape: tuple[int, ...], bias: bool) -> None:
    """Exactly the float product of the rounded rows and weights; near the layer's own."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias)
    tokens = (torch.randn(*shape, 64) + torch.randn(*shape, 1)) * torch.rand(*shape, 1) * 100
    ours = Int8Linear(linear)(tokens)

    weight, scale = quantize_weight(linear.weight.detach())
    rows, step, least = quantize_tokens(tokens.flatten(0, -2))
    rounded = rows.double() * step + least
    exact = rounded @ (weight.double() * scale[:, None]).T + (linear.bias.detach() if bias else 0)
    torch.testing.assert_close(ours.flatten(0, -2).double(), exact, atol=2e-4, rtol=1e-5)
    cosine = nn.functional.cosine_similarity(ours, linear(tokens), dim=-1)
    assert cosine.min() > 0.999


def test_compiled_layers_and_gelus_equal_the_plain_ones() -> None:
    """To the polynomial's 2e-4 in the GELU, over all it can meet."""
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(32, 16))
    tokens = torch.randn(4, 600, 32)
    torch.testing.assert_close(torch.compile(layer)(tokens), layer(tokens), atol=1e-5, rtol=1e-5)

    x = torch.cat([torch.linspace(-9, 9, 20_001), torch.tensor([-1e4, 1e4, float("nan")])])
    gelu = PolynomialGELU()
    difference = torch.compile(gelu)(x) - nn.functional.gelu(x)
    assert difference[:-1].abs().amax() < 2e-4
    assert difference[-1].isnan()
    torch.testing.assert_close(gelu(x), nn.functional.gelu(x), equal_nan=True)


def test_linear_layers_of_a_module_are_replaced_and_nothing_else() -> None:
    """At any depth, each in its place; exact GELUs too."""
    module = nn.Sequential(
        nn.Linear(8, 8), nn.Sequential(nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)), nn.GELU("tanh")
    )
    quantize_linears(module, lambda: module(torch.randn(2, 8)))
    assert [type(layer) for layer in module.modules()] == [
        nn.Sequential,
        Int8Linear,
        nn.Sequential,
        nn.LayerNorm,
        PolynomialGELU,
        Int8Linear,
        nn.GELU,
    ]


def test_a_layer_that_outliers_enter_or_that_nobody_calls_stays() -> None:
    """One huge channel would leave the others a step or two."""

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.wild, self.borrowed = (nn.Linear(384, 384) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wild = x.clone()
            wild[..., 7] = 100
            return self.plain(x) + self.wild(wild) + nn.functional.linear(x, self.borrowed.weight)

    torch.manual_seed(0)
    module, tokens = Blocks(), torch.randn(2, 9, 384)
    quantize_linears(module, lambda: module(tokens))
    kinds = {name: type(layer) for name, layer in module.named_children()}
    assert kinds == {"plain": Int8Linear, "wild": nn.Linear, "borrowed": nn.Linear}
    assert spread(tokens) < 8
