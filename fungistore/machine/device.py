"""The device that models run on: which one, what it multiplies fast, and how much it holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import inf

import torch
from torch import nn

from fungistore.errors import FullMemoryError, UsageError
from fungistore.machine.powers import power_of_two_within

BATCH_TOKENS = {"cpu": 32_768, "mps": 16_384, "cuda": 65_536}  # that fill the device
LARGEST_BATCH = 512
PROBE_SIZE = 768  # rows and columns of the products that are timed: a few milliseconds each
PROBE_ROUNDS = 7
WORTHWHILE_GAIN = 1.2
LARGEST_BYTE, LARGEST_WEIGHT = 255, 127  # of uint8 tokens and int8 weights


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" prefers CUDA, then Apple's, then the CPU.

    A numbered CUDA device becomes torch's current one, which streams and waits default to.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
        if device.type not in BATCH_TOKENS:
            raise RuntimeError("a device that fungi does not know")
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            "no such device here",
            where=f"--device {name}",
            expected="auto, cpu, cuda, cuda:N or mps",
            found=str(error).splitlines()[0],
            hint="--device cpu always works",
        ) from error
    return device


def fast_dtype(device: torch.device) -> str:
    """Return bfloat16 where the device multiplies it faster than float32, else float32.

    CPUs are timed, once a process: of those that have bfloat16 instructions, some are twice as
    fast with them and some half as fast.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bfloat16" if _bfloat16_gain() > WORTHWHILE_GAIN else "float32"
    return "float32"


@cache
def _bfloat16_gain() -> float:
    """Return how many times faster a product of a typical trunk is in bfloat16, of best times."""
    best = {torch.float32: inf, torch.bfloat16: inf}
    operands = {dtype: torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype) for dtype in best}
    for _ in range(PROBE_ROUNDS):
        for dtype, operand in operands.items():
            began = time.perf_counter()
            nn.functional.linear(operand, operand)
            best[dtype] = min(best[dtype], time.perf_counter() - began)
    return best[torch.float32] / best[torch.bfloat16]


def refuse_unfit(dtype: torch.dtype, device: torch.device) -> None:
    """Raise UsageError if a device cannot run a trunk in a type."""
    if dtype == torch.int8 and device.type != "cpu":
        raise UsageError(
            "int8 is for CPUs",
            where="--dtype int8",
            expected="--device cpu",
            found=str(device),
            hint="leave out --dtype: a GPU's own choice is fast",
        )
    if dtype == torch.int8 and not multiplies_exactly():
        raise UsageError(
            "sums of 8-bit products are not exact here",
            where="--dtype int8",
            expected="a CPU with VNNI instructions (Intel since 2019, AMD since 2022), torch 2.15",
            found=f"torch {torch.__version__}",
            hint="leave out --dtype",
        )


def default_batch_size(device: torch.device, tokens: int) -> int:
    """Return a power of two of samples, of `tokens` tokens each, that fills the device."""
    return min(LARGEST_BATCH, power_of_two_within(BATCH_TOKENS[device.type] / tokens))


def multiplies_exactly() -> bool:
    """Whether torch and this CPU sum products of bytes in full.

    CPUs without VNNI instructions cut the sums of neighbours off at 16 bits, and torch 2.11 does
    not multiply unsigned bytes yet.
    """
    tokens = torch.full((64, 64), LARGEST_BYTE, dtype=torch.uint8)
    weight = torch.full((64, 64), LARGEST_WEIGHT, dtype=torch.int8)
    try:
        products = torch._int_mm(tokens, weight)
    except RuntimeError:
        return False
    return bool((products == 64 * LARGEST_BYTE * LARGEST_WEIGHT).all())


@contextmanager
def explain_full_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """Turn the error of a GPU whose memory is full into one that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FullMemoryError(
            "the GPU's memory does not hold a batch",
            where=device,
            found=str(error).partition("\n")[0],
            hint=f"--batch-size {max(1, batch_size // 2)}, or --projection-memory 0",
        ) from error


def wait_for_gpu() -> None:
    """Wait for the current CUDA device, where this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
