"""Compiling a module once for each shape of its input, by whatever torch there is."""

from __future__ import annotations

from inspect import signature

import torch
from torch import nn

MOST_SHAPES = 64  # of inputs that a module is compiled for; beyond, it runs as it is


def compile_for_shapes(module: nn.Module) -> None:
    """Compile a module in place, for up to `MOST_SHAPES` shapes of inputs."""
    limit = "recompile_limit"
    if limit in signature(torch.compile).parameters:
        module.compile(dynamic=False, recompile_limit=MOST_SHAPES)
        return
    # torch before 2.13 has one limit for the whole process
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_SHAPES)
    module.compile(dynamic=False)
