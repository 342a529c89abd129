"""Copies between the host and a GPU that wait for nothing but themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Launched = TypeVar("Launched")
Fetch = Callable[[], dict[str, NDArray[np.float32]]]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor, from the host without making the host wait for a GPU's earlier work."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def start_fetch(tensors: Mapping[str, Tensor]) -> Fetch:
    """Start to copy tensors to the host; what is returned waits for them, as float32 of NumPy.

    A GPU's copies queue behind the work that made the tensors, before any that is launched later,
    so nobody waits for that.
    """
    streams = {torch.cuda.current_stream(t.device) for t in tensors.values() if t.is_cuda}
    arriving = {name: t.to("cpu", non_blocking=bool(streams)) for name, t in tensors.items()}
    copied = [stream.record_event() for stream in streams]

    def fetch() -> dict[str, NDArray[np.float32]]:
        for event in copied:
            event.synchronize()
        return {name: values.float().numpy() for name, values in arriving.items()}

    return fetch


def one_behind(launches: Iterable[Launched], device: torch.device) -> Iterator[Launched]:
    """Yield what is launched one by one; on a GPU only when the next one was launched too.

    Whoever waits for what is yielded then leaves the GPU with work. On a CPU it is done already.
    """
    before: list[Launched] = []
    for launched in launches:
        yield from before
        before = [launched]
        if device.type == "cpu":
            yield before.pop()
    yield from before
