"""Layers that can be differentiated, by name."""

from __future__ import annotations

import difflib

from torch import nn

from fungistore.errors import UsageError

DIFFERENTIABLE = (nn.Linear, nn.Conv2d)
NEAR_NAMES = 5


def differentiable(module: nn.Module) -> list[str]:
    """Return the dotted names of linear layers and convolutions, in the module's order."""
    return [name for name, one in module.named_modules() if isinstance(one, DIFFERENTIABLE)]


def refuse_other_layer(module: nn.Module, name: str) -> None:
    """Refuse a target layer that is not in a module, or of another kind.

    Raises:
        UsageError: it is; the error names near ones.
    """
    known = differentiable(module)
    if name not in known:
        near = difflib.get_close_matches(name, known, NEAR_NAMES, cutoff=0.0)
        raise UsageError(
            "the target layer is not a linear layer or convolution of the model",
            where=f"--target-layer {name}",
            expected=f"a linear layer or convolution such as {', '.join(near)}"
            if near
            else "it has no such layers",
        )
