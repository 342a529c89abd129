"""Eight-bit linear layers for a frozen trunk: int8 weights, uint8 activations, int32 sums.

A row of the weight (an output channel) has a scale, and a row of the input (a token) a scale and a
least value, all found from the row's own entries. So nothing is calibrated, and a token's result
does not depend on what else is in the batch. Source: dynamic quantisation per token and channel as
in ZeroQuant (Yao et al., 2022), section 4.1, with a least value for each token, because what leaves
a GELU is nearly all on one side of zero.

A perceptron's GELU goes into the layer behind it: its range follows from the largest entry before
it, so that no pass over the hidden units is needed only to find it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 127
STEPS = 255
TOKENS_AT_ONCE = 512  # their sums stay in a core's cache until they are scaled
WIDEST = 16.0  # range of a token in units of its root mean square; a Gaussian's is about 6
GELU_LEAST = -0.17
GELU_END = 4.0
GELU_TERMS = (  # of x (cdf(x) - 1/2) in powers of x squared, by Chebyshev's nodes on [0, 16]
    4.859228977971419e-05,
    0.3984470438916597,
    -0.06563739821468034,
    0.009390830477315327,
    -0.0009798865809929498,
    7.144260918704227e-05,
    -3.4121944789924852e-06,
    9.498157371825058e-08,
    -1.1598399774134868e-09,
)


class Int8Linear(nn.Module):
    """Stands in for a linear layer; takes and returns float32.

    Args:
        linear: the layer.
        after_gelu: take what enters the GELU before the layer, and stand in for it too.
    """

    weight: Tensor
    scale: Tensor
    total: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, *, after_gelu: bool = False) -> None:
        super().__init__()
        self._quantize = quantize_gelu if after_gelu else quantize_tokens
        weight, scale = quantize_weight(linear.weight.detach().float())
        bias = linear.bias if linear.bias is not None else torch.zeros(len(weight))
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("total", scale * weight.sum(1))
        self.register_buffer("bias", bias.detach().float().to(weight.device))

    def forward(self, tokens: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """Return the product plus the bias."""
        rows = tokens.flatten(0, -2)
        if torch.compiler.is_compiling():  # which fuses all but the product
            quantized, step, least = self._quantize(rows)
            sums = torch._int_mm(quantized, self.weight.t())
            result = sums * (step * self.scale) + (least * self.total + self.bias)
            return result.unflatten(0, tokens.shape[:-1])
        result = rows.new_empty(len(rows), len(self.weight))
        for part, place in zip(
            rows.split(TOKENS_AT_ONCE), result.split(TOKENS_AT_ONCE), strict=True
        ):
            quantized, step, least = self._quantize(part)
            torch.mul(torch._int_mm(quantized, self.weight.t()), step, out=place)
            torch.addcmul(self.bias, place, self.scale, out=place)
            place.addr_(least[:, 0], self.total)
        return result.unflatten(0, tokens.shape[:-1])


def quantize_weight(
    weight: Float[Tensor, "o i"],
) -> tuple[Int[Tensor, "o i"], Float[Tensor, " o"]]:
    """Return int8 rows in [-127, 127] and the scale that each is to be multiplied by."""
    scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def quantize_tokens(
    rows: Float[Tensor, "n i"],
) -> tuple[Int[Tensor, "n i"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Return uint8 rows, and the step and least value of each: rows ~ step * uint8 + least."""
    return _in_steps(rows, rows.amin(1, keepdim=True), rows.amax(1, keepdim=True))


def quantize_gelu(
    rows: Float[Tensor, "n i"],
) -> tuple[Int[Tensor, "n i"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Return what `quantize_tokens` would of the rows' GELU, or steps a little larger."""
    least = torch.full_like(rows[:, :1], GELU_LEAST)
    return _in_steps(gelu(rows), least, gelu(rows.amax(1, keepdim=True)).relu())


def _in_steps(
    rows: Float[Tensor, "n i"], least: Float[Tensor, "n 1"], largest: Float[Tensor, "n 1"]
) -> tuple[Int[Tensor, "n i"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    step = (largest - least).clamp_min(1e-30) / STEPS
    return ((rows - least) * step.reciprocal()).round_().to(torch.uint8), step, least


def gelu(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Return x cdf(x); where compiled, by a polynomial within 2e-4, at a third of the cost."""
    if not torch.compiler.is_compiling():
        return functional.gelu(x)
    inner = x.clamp(-GELU_END, GELU_END)
    square = inner * inner
    even = torch.full_like(square, GELU_TERMS[-1])
    for term in GELU_TERMS[-2::-1]:
        even = even * square + term
    return 0.5 * inner + even + (x - GELU_END).relu()


def quantize_linears(module: nn.Module, run: Callable[[], object]) -> None:
    """Replace a module's linear layers in place, and the GELU between a perceptron's two.

    A layer stays as it is if outliers dominate what enters it (one huge channel would leave the
    others few of the 255 steps), or if `run` does not call it.

    Args:
        module: where to look, at any depth.
        run: runs the module once, on any input that is not flat.
    """
    layers = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    spreads: dict[str, float] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        spreads[name] = spread(inputs[0])

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    after_gelu = {f"{name}.fc2": mlp for name, mlp in module.named_modules() if _has_gelu(mlp)}
    for name, width in spreads.items():
        if width <= WIDEST:
            mlp = after_gelu.get(name)
            module.set_submodule(name, Int8Linear(layers[name], after_gelu=mlp is not None))
            if mlp is not None:
                mlp.act = nn.Identity()


def _has_gelu(module: nn.Module) -> bool:
    """Whether a module is a perceptron with nothing but an exact GELU between its layers."""
    return (
        type(module) is Mlp
        and type(module.act) is nn.GELU
        and module.act.approximate == "none"
        and type(module.norm) is nn.Identity
    )


def spread(tokens: Float[Tensor, "... i"]) -> float:
    """Return the mean range of the tokens' entries, each in units of its root mean square."""
    size = tokens.square().mean(-1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return float(((tokens.amax(-1) - tokens.amin(-1)) / size).mean())
