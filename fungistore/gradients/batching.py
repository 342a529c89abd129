"""How many views one forward takes."""

from __future__ import annotations

import torch

from fungistore.machine.powers import power_of_two_within

TOKENS_A_FORWARD = 1280  # four views of 257 tokens; part of what features are, on a CPU


def forward_size(device: torch.device, tokens: int) -> int | None:
    """Return how many views of some tokens each one forward should take, None for any number.

    A CPU computes fastest on tensors that fit a core's caches and need no new pages of memory; a
    GPU on as many views as it is given. The last digits of a product can depend on its size, so
    nothing that varies enters a CPU's: neither its cores nor the number of samples at hand.
    """
    return None if device.type != "cpu" else power_of_two_within(TOKENS_A_FORWARD / tokens)


def samples_within(size: int, views: int, batch_size: int) -> int:
    """Return how many samples have all of their views in one forward; at least one."""
    return max(1, min(size, batch_size) // views)
