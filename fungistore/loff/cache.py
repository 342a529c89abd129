"""Where the rows of a training run are kept: on the GPU, in memory, or on disk alone."""

from __future__ import annotations

from typing import Literal

import torch

from fungistore.errors import UsageError
from fungistore.loff.options import CacheChoice
from fungistore.machine.context import Context
from fungistore.machine.resources import free_memory
from fungistore.quantities import size

Cache = Literal["gpu", "ram", "none"]
AUTO_SHARE = 0.5  # of what is free; the rest is for the head, its activations, and others
ASKED_SHARE = 0.9  # of what is free, where the user asked for it


def choose_cache(choice: CacheChoice, needed: int, device: torch.device, context: Context) -> Cache:
    """Decide where `needed` bytes of rows are kept, and say why.

    Args:
        choice: what the user asked for; "auto" takes the fastest place with room.
        needed: bytes of all rows.
        device: that batches are wanted on.
        context: its reporter is told what "auto" decided.

    Raises:
        UsageError: the place that was asked for is too small, or not there.
    """
    if choice == "none":
        return "none"
    places: dict[Cache, int | None] = {"gpu": free_on_device(device), "ram": free_memory()}
    if choice != "auto":
        free = places[choice]
        if choice == "gpu" and free is None:
            raise UsageError(
                "there is no GPU to keep the rows on",
                where="--cache gpu",
                found=f"device {device}",
                hint="use --cache ram, or --device cuda where there is one",
            )
        if free is not None and needed > ASKED_SHARE * free:
            raise UsageError(
                "the rows do not fit",
                where=f"--cache {choice}",
                expected=f"at most {size(ASKED_SHARE * free)}",
                found=size(needed),
                hint="use --cache none, which reads batches from disk",
            )
        return choice
    for place, free in places.items():
        if free is not None and needed <= AUTO_SHARE * free:
            where = "on the GPU" if place == "gpu" else "in memory"
            context.reporter.notice(f"{size(needed)} of features kept {where} ({size(free)} free)")
            return place
    context.reporter.notice(
        f"{size(needed)} of features read from disk batch by batch: "
        f"{size(free)} of memory are free, and half of that may be taken"
        if free is not None
        else f"{size(needed)} of features read from disk: unknown how much memory is free"
    )
    return "none"


def free_on_device(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device, None for others."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None
