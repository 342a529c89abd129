"""How float32 is multiplied, whatever the process around has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, Literal

import torch

OnGpu = Literal["ieee", "tf32"]
_backends: Any = torch.backends  # its type stubs lack these
ON_GPU = (_backends.cuda.matmul, _backends.cudnn.conv)
_TURN = RLock()
ON_CPU = (_backends.mkldnn.matmul, _backends.mkldnn.conv)


@contextmanager
def float32_products(on_gpu: OnGpu = "ieee") -> Iterator[None]:
    """Multiply float32 exactly, or on a GPU as TF32 (10 bits), within the context.

    Left alone, torch convolves in TF32 on a GPU, and `torch.set_float32_matmul_precision` of some
    other code would change features without a word. The setting is the whole process's, so other
    threads multiply like this meanwhile, and those that come here wait for their turn.
    """
    chosen = dict.fromkeys(ON_GPU, on_gpu) | dict.fromkeys(ON_CPU, "ieee")
    with _TURN:
        before = {backend: backend.fp32_precision for backend in chosen}
        for backend, precision in chosen.items():
            backend.fp32_precision = precision
        try:
            yield
        finally:
            for backend, precision in before.items():
                backend.fp32_precision = precision


@contextmanager
def plain_modes(device: torch.device) -> Iterator[None]:
    """Compute as in a new thread, whatever modes the caller is in: autocast, inference, no grad."""
    with (
        torch.autocast(device.type, enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield
