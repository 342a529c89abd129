"""Eight-bit linear layers against the float layers that they stand in for."""

from __future__ import annotations

import pytest
import torch
from timm.layers import GELUTanh, Mlp
from torch import nn

from fungistore.backbones.timm_vit.quantized import (
    Int8Linear,
    gelu,
    quantize_gelu,
    quantize_linears,
    quantize_tokens,
    quantize_weight,
    spread,
)
from tiny_world import needs_vnni


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


@needs_vnni
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


@needs_vnni
def test_a_layer_takes_the_gelu_before_it() -> None:
    """Within the rounding of steps as large as the GELU's range asks, or a little larger."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48)
    tokens = torch.randn(3, 50, 64) * torch.rand(3, 50, 1) * 4 - 1
    tokens[0, 0] = -5  # nothing but tails
    expected = linear(nn.functional.gelu(tokens))
    ours = Int8Linear(linear, after_gelu=True)(tokens)
    assert nn.functional.cosine_similarity(ours, expected, dim=-1).min() > 0.999
    quantized, step, least = quantize_gelu(tokens.flatten(0, -2))
    exact = nn.functional.gelu(tokens.flatten(0, -2))
    assert ((quantized * step + least - exact).abs() <= 0.5 * step + 1e-6).all()
    assert (step <= 1.01 * (exact.amax(1, keepdim=True).relu() + 0.17) / 255).all()


@needs_vnni
@pytest.mark.parametrize("after_gelu", [False, True])
def test_compiled_layers_equal_the_plain_ones(after_gelu: bool) -> None:
    """To float32's last bits, but for an entry that the polynomial moves across a step."""
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(32, 16), after_gelu=after_gelu)
    tokens = torch.randn(4, 600, 32)
    tolerance = 1e-2 if after_gelu else 1e-5
    torch.testing.assert_close(torch.compile(layer)(tokens), layer(tokens), atol=tolerance, rtol=0)


def test_the_polynomial_is_gelu_everywhere() -> None:
    """To 2e-4 over all that it can meet; what is not a number stays so."""
    x = torch.cat([torch.linspace(-9, 9, 20_001), torch.tensor([-1e4, 1e4, float("nan")])])
    difference = torch.compile(gelu)(x) - nn.functional.gelu(x)
    assert 1e-6 < difference[:-1].abs().amax() < 2e-4
    assert difference[-1].isnan()
    torch.testing.assert_close(gelu(x), nn.functional.gelu(x), equal_nan=True)


def test_linear_layers_of_a_module_are_replaced_and_nothing_else() -> None:
    """At any depth, each in its place; a perceptron's GELU goes into its second layer."""
    plain, normed, tanh = Mlp(8), Mlp(8, norm_layer=nn.LayerNorm), Mlp(8, act_layer=GELUTanh)
    module = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.LayerNorm(8), plain, normed), tanh)
    quantize_linears(module, lambda: module(torch.randn(2, 8)))
    assert type(module[0]) is Int8Linear
    assert type(module[1][0]) is nn.LayerNorm
    for mlp, activation in ((plain, nn.Identity), (normed, nn.GELU), (tanh, GELUTanh)):
        assert type(mlp.fc1) is type(mlp.fc2) is Int8Linear
        assert type(mlp.act) is activation
    assert type(normed.norm) is nn.LayerNorm


@needs_vnni
def test_a_quantized_perceptron_is_near_its_own() -> None:
    """The whole of it: the GELU is applied once."""
    torch.manual_seed(0)
    module, tokens = nn.Sequential(Mlp(64, 256)), torch.randn(5, 64)
    expected = module(tokens)
    quantize_linears(module, lambda: module(tokens))
    assert nn.functional.cosine_similarity(module(tokens), expected, dim=-1).min() > 0.999


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
