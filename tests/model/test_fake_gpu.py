"""A batch on a GPU that is not there: nothing mixes devices, and nothing waits for the GPU.

Tensors on it have a shape, a type and a device but no values (torch's FakeTensorMode), and the
host's are real. So whatever would meet a tensor of the other device fails here too, and so does
whatever asks for a value while a batch is being launched, which on a real GPU would wait for all
that it has to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from fungistore.extraction import ExtractOptions
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.loader import stack_drawn
from fungistore.extraction.resolve import resolve

GPU = torch.device("cuda", 0)
FEATURES = ("embeddings", "kl", "dino", "simclr", "patches")


class FakeGpu(FakeTensorMode):
    """Fakes what is on a GPU, and leaves to the host what is the host's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        places = [leaf.device if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        away = any(isinstance(place, torch.device) and place.type != "cpu" for place in places)
        if away or any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return super().__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work on a fake GPU, with stand-ins for the two things of torch that need a real one."""
    monkeypatch.setattr(nn.Module, "to", _moved)
    monkeypatch.setattr(torch.autograd, "grad", _no_gradients)
    with FakeGpu(allow_non_fake_inputs=True):
        yield


def _moved(module: nn.Module, *args: Any) -> nn.Module:
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


def _no_gradients(loss: Tensor, inputs: tuple[Tensor, ...], **_: Any) -> tuple[Tensor, ...]:
    """Return zeros for autograd's gradients: its engine asks for the GPU's threads."""
    assert loss.device == GPU
    return tuple(torch.zeros_like(tensor) for tensor in inputs)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer:UserWarning")  # by copy.deepcopy
@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("view_size", ["model", "native"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("model", ["test_vit", "test_vit3"])
def test_a_batch_stays_on_the_gpu(
    weights_file: Callable[[str], Path],
    photos: list[NDArray[np.uint8]],
    model: str,
    dtype: Any,
    view_size: str,
) -> None:
    """By the class-token path and the general one, every feature is made there and left there."""
    options = ExtractOptions(
        model=model,
        weights=str(weights_file(model)),
        features=FEATURES,
        device="cuda",
        dtype=dtype,
        view_size=view_size,
    )
    maker = throwaway_features(resolve(options, {}))
    wanted = frozenset(FEATURES)
    drawn = [maker.drawer.draw(photo, str(number), wanted) for number, photo in enumerate(photos)]
    rows = maker.launch(stack_drawn(drawn), wanted)
    assert {name: array.device for name, array in rows.items()} == dict.fromkeys(rows, GPU)
    assert len(rows) == 2 + 2 * 3
    assert all(len(array) == len(photos) for array in rows.values())


@pytest.mark.usefixtures("fake_gpu")
def test_the_fake_gpu_finds_what_it_is_for() -> None:
    """It refuses tensors of both devices, and to tell a value."""
    on_gpu = torch.ones(3, device="cuda")
    assert (on_gpu + 1).device == GPU
    assert (torch.ones(3) + 1).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="device"):
        on_gpu @ torch.ones(3)
    with pytest.raises(DataDependentOutputException):
        int(on_gpu.max())
