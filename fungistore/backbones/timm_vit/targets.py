"""Which layer of a timm model is differentiated: the paper's rule, or a layer that was named."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from fungistore.backbones.target_layers import refuse_other_layer
from fungistore.backbones.timm_vit.anatomy import Anatomy, is_plain
from fungistore.errors import UsageError
from fungistore.quantities import counted

CANDIDATES = 3
MOST_AFTER = 4  # layers behind the last attention's: its block's perceptron and a neck


def default_target(model: Any, anatomy: Anatomy) -> str | None:
    """Return the last block's attention output projection (FUNGI, section 3); None: it has none.

    Of a model whose blocks are not in one line, it is the last attention's `proj`, unless more
    than a block's perceptron comes behind it: then the rule says nothing of that model.
    """
    if is_plain(model):
        return _of_last_block(model)
    layers = [name for name in anatomy.layers if not _is_pooling(model, name)]
    for name in layers[: -MOST_AFTER - 2 : -1]:
        if _is_projection(model, name):
            return name
    return None


def check_target(model: Any, anatomy: Anatomy, name: str) -> str:
    """Return the name of a layer that can be differentiated.

    Raises:
        UsageError: it is not a linear or convolution layer that runs exactly once a forward.
    """
    refuse_other_layer(model, name)
    if name not in anatomy.layers:
        times = anatomy.calls[name]
        why = "other code uses its weights" if times == 0 else "its weights are shared"
        raise UsageError(
            "the target layer must run exactly once a forward",
            where=f"--target-layer {name}",
            expected="1 call",
            found=f"{counted(times, 'call')}: {why}",
            hint=f"--target-layer {' or '.join(candidates(anatomy))}, which do",
        )
    return name


def candidates(anatomy: Anatomy) -> tuple[str, ...]:
    """Return the last layers that can be differentiated, the last one first."""
    return anatomy.layers[: -CANDIDATES - 1 : -1]


def _of_last_block(model: Any) -> str | None:
    last = len(model.blocks) - 1
    names = [key for key, m in model.blocks[last].named_modules() if isinstance(m, nn.Linear)]
    attention = [name for name in names if "attn" in name and name.endswith("proj")]
    return f"blocks.{last}.{attention[-1]}" if attention else None


def _is_projection(model: Any, name: str) -> bool:
    """Whether a layer is an attention's `proj`, or in it."""
    return any(
        part == "proj" and ("attn" in parent or "Attention" in kind)
        for (parent, kind), (part, _) in pairwise(_path(model, name))
    )


def _is_pooling(model: Any, name: str) -> bool:
    """Whether a layer is part of a pooling by attention, in the place of a head."""
    return any("AttentionPool" in kind for _, kind in _path(model, name))


def _path(model: Any, name: str) -> list[tuple[str, str]]:
    """Return the names and the types of the modules that a layer lies in, and its own."""
    parts = name.split(".")
    inner = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    return [
        (p, type(model.get_submodule(key)).__name__) for p, key in zip(parts, inner, strict=True)
    ]
