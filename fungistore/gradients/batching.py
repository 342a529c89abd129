"""How many views one forward takes."""

from __future__ import annotations

import torch

from fungistore.machine.powers import power_of_two_within

TOKENS_A_THREAD = 512


def forward_size(device: torch.device, tokens: int) -> int | None:
    """Return how many views of some tokens each one forward should take, None for any number.

    A CPU computes fastest on tensors that fit its caches and need no new pages of memory; a GPU on
    as many views as it is given.
    """
    if device.type != "cpu":
        return None
    return power_of_two_within(TOKENS_A_THREAD * torch.get_num_threads() / tokens)
