"""How a layer's per-sample gradient is made of what entered it and what came back through it.

Of a linear layer it is a sum of outer products. Any other layer, such as a convolution, is run once
more on one sample's inputs, and asked for its own gradient: so strides, groups, padding of any mode
and weights that are standardised on the way are what they were in the forward, and no more memory
is needed than the layer's own backward takes for one sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

Contract = Callable[[Tensor, Tensor], Tensor]  # of backprops and inputs [b, ...]: [b, out, m]


def gradient_shape(layer: nn.Linear | nn.Conv2d | None) -> tuple[int, int]:
    """Return (out, m): m of a weight [out, ...] is what is left of it, and the bias' column."""
    if layer is None:
        return 0, 0
    out, *rest = layer.weight.shape
    return out, prod(rest) + (layer.bias is not None)


def contraction(layer: nn.Linear | nn.Conv2d | None) -> Contract:
    """Return what makes per-sample gradients of a layer."""
    if layer is None or isinstance(layer, nn.Linear):
        return outer_products(has_bias=layer is not None and layer.bias is not None)
    return partial(_run_again, _alone(layer).requires_grad_())


def _alone(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a copy whose weight and bias are parameters, whatever they were computed from."""
    alone = copy.deepcopy(layer)
    if parametrize.is_parametrized(layer):  # its class holds the weight, and is the copy's too
        alone.__class__ = parametrize.type_before_parametrizations(layer)
        del alone.parametrizations
        for name in ("weight", "bias"):
            value = getattr(layer, name)
            fixed = None if value is None else nn.Parameter(value.detach().clone())
            alone.register_parameter(name, fixed)
    return alone


def outer_products(*, has_bias: bool) -> Contract:
    """Return what sums the outer products of a linear layer, over tokens and views."""
    return partial(_outer_products, has_bias)


def _outer_products(
    has_bias: bool, backprop: Float[Tensor, ...], entered: Float[Tensor, "b n i"]
) -> Float[Tensor, "b o m"]:
    if has_bias:
        entered = torch.cat([entered, torch.ones_like(entered[..., :1])], dim=-1)
    return backprop.reshape(*entered.shape[:2], -1).transpose(1, 2) @ entered


def _run_again(
    layer: nn.Conv2d,
    backprop: Float[Tensor, "n c h w"],
    entered: Float[Tensor, "b v i y x"],
) -> Float[Tensor, "b o m"]:
    """Differentiate the layer alone, sample by sample; the copy is never changed by it."""
    layer = layer.to(entered.device)
    parameters = [one for one in (layer.weight, layer.bias) if one is not None]
    backprops = backprop.unflatten(0, entered.shape[:2])
    rows = []
    for inputs, back in zip(entered, backprops, strict=True):
        with torch.enable_grad():
            output = layer(inputs)
        found = torch.autograd.grad(output, parameters, back)
        rows.append(torch.cat([one.reshape(len(one), -1) for one in found], dim=1))
    return torch.stack(rows)
