"""Copies between the host and a GPU that wait for nothing but themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Fetch = Callable[[], dict[str, NDArray[np.float32]]]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor from the host without making the host wait for a GPU's earlier work."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


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
