"""Eight-bit linear layers for a frozen trunk: int8 weights, int8 activations, int32 sums.

A row of the weight (an output channel) and a row of the input (a token) each have a scale of their
own, found from their largest entry. So nothing has to be calibrated, and a token's result does not
depend on what else is in the batch. Source: W8A8 with per-token scales, as in SmoothQuant (Xiao et
al., 2023), section 2, without its smoothing (no gain was measured from weights alone).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LARGEST = 127
TOKENS_AT_ONCE = 512  # their sums stay in a core's cache until they are scaled


class Int8Linear(nn.Module):
    """Stands in for a linear layer; takes and returns float32.

    Args:
        linear: the layer; its widths should be multiples of 16.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantize_rows(linear.weight.detach().float())
        bias = linear.bias if linear.bias is not None else torch.zeros(len(weight))
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("bias", bias.detach().float().to(weight.device))

    def forward(self, tokens: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """Return the product plus the bias."""
        rows = tokens.flatten(0, -2)
        result = rows.new_empty(len(rows), len(self.weight))
        count = len(rows) if torch.compiler.is_compiling() else TOKENS_AT_ONCE  # it fuses instead
        for part, place in zip(rows.split(count), result.split(count), strict=True):
            quantized, scale = quantize_rows(part)
            sums = torch._int_mm(quantized, self.weight.t())
            torch.mul(sums, scale, out=place)
            torch.addcmul(self.bias, place, self.scale, out=place)
        return result.unflatten(0, tokens.shape[:-1])


def quantize_rows(
    rows: Float[Tensor, "n i"],
) -> tuple[Int[Tensor, "n i"], Float[Tensor, "n 1"]]:
    """Return int8 rows and the scale that each is to be multiplied by."""
    largest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True))
    scale = largest.clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return (rows / scale).round_().to(torch.int8), scale


def quantize_linears(module: nn.Module) -> None:
    """Replace every linear layer inside a module, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantize_linears(child)
