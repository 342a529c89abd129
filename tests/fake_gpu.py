"""A GPU that is not there: tensors on it have a shape, a type and a device, but no values.

Whatever would meet a tensor of another device fails on it, and so does whatever asks for a value,
which on a real GPU would wait for all that it has to do. Tensors of the host are real.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)


class FakeGpu(FakeTensorMode):
    """Fakes what is on a GPU, and leaves to the host what is the host's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        places = [leaf.device if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        away = any(isinstance(place, torch.device) and place.type != "cpu" for place in places)
        if away or any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return super().__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


def moved(module: nn.Module, *args: Any) -> nn.Module:
    """Do what `nn.Module.to` does, by new parameters: it cannot change a real one into a fake."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = nn.Parameter(parameter.data.to(*args), requires_grad=False)
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(*args)
    return module


def no_gradients(loss: Tensor, inputs: tuple[Tensor, ...], **_: Any) -> tuple[Tensor, ...]:
    """Return zeros for autograd's gradients: its engine asks for the GPU's threads."""
    assert loss.device == GPU
    return tuple(torch.zeros_like(tensor) for tensor in inputs)
