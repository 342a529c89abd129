"""Devices, what the CPU can do, threads and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fungistore.doctor.check import Check, failed, passed, warned
from fungistore.machine.device import fast_dtype
from fungistore.machine.resources import allowed_cores, free_memory
from fungistore.quantities import counted, size

LEAST_MEMORY = 1e9  # torch, a ViT-S and one batch
GOOD_MEMORY = 4e9  # a ViT-L in float32 with its batch
NVIDIA = Path("/proc/driver/nvidia/version")  # there where a driver is loaded
CPU_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "amx_tile")


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name, its memory and what is free of it in bytes, native bfloat16."""

    name: str
    total: int
    free: int
    has_bfloat16: bool


def check_hardware() -> Iterator[Check]:
    """Check devices, CPU, threads and memory."""
    yield judge_devices(list(_gpus()), has_driver=NVIDIA.exists())
    yield judge_cpu(_cpu_features(), fast_dtype(torch.device("cpu")))
    yield judge_threads(torch.get_num_threads(), allowed_cores())
    yield judge_memory(free_memory())


def judge_devices(gpus: Sequence[Gpu], *, has_driver: bool) -> Check:
    """Judge the CUDA devices; without any, extraction runs on the CPU (or on Apple's GPU)."""
    if gpus:
        found = "; ".join(
            f"{gpu.name}, {size(gpu.free)} of {size(gpu.total)} free, "
            f"{'bfloat16' if gpu.has_bfloat16 else 'no bfloat16: float16 is used'}"
            for gpu in gpus
        )
        return passed("devices", found)
    if has_driver:
        return warned(
            "devices",
            "an NVIDIA driver is loaded, but torch sees no CUDA device",
            "install a torch build for the driver's CUDA, and look at CUDA_VISIBLE_DEVICES",
        )
    return passed("devices", "no CUDA device: --device auto takes mps if there is one, else cpu")


def judge_cpu(features: Sequence[str], dtype: str) -> Check:
    """Judge the CPU's instructions; `dtype` is what extraction would choose on it."""
    found = f"{', '.join(features) or 'none of ' + ', '.join(CPU_FEATURES)}; extracts in {dtype}"
    if "avx2" not in features:
        return warned("CPU", found, "use a machine with AVX2, or a GPU: this one will be slow")
    return passed("CPU", found)


def judge_threads(threads: int, allowed: float) -> Check:
    """Compare torch's threads with the cores that this process may use."""
    found = f"torch uses {counted(threads, 'thread')}, {allowed:g} cores may be used"
    if threads > max(1.0, allowed) * 1.5:  # they then wait for each other
        return warned("threads", found, f"export OMP_NUM_THREADS={max(1, int(allowed))}")
    if threads * 4 <= allowed:
        return warned("threads", found, "unset OMP_NUM_THREADS, or raise it, to use all cores")
    return passed("threads", found)


def judge_memory(free: int | None) -> Check:
    """Judge the memory that can be had without swapping."""
    if free is None:
        return passed("memory", "not told by this system")
    if free < LEAST_MEMORY:
        return failed(
            "memory", f"{size(free)} free", "end other programs, or raise the job's limit"
        )
    if free < GOOD_MEMORY:
        return warned("memory", f"{size(free)} free", "use a small model and --batch-size 8")
    return passed("memory", f"{size(free)} free")


def _gpus() -> Iterator[Gpu]:
    for number in range(torch.cuda.device_count()):
        with torch.cuda.device(number):
            free, total = torch.cuda.mem_get_info()
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            yield Gpu(torch.cuda.get_device_name(), total, free, native)


def _cpu_features() -> list[str]:
    known = torch.cpu.get_capabilities()
    return [name for name in CPU_FEATURES if known.get(name)]
