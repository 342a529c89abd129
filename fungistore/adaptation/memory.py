"""Whether the activations of a training step fit the memory, or must be computed twice."""

from __future__ import annotations

from typing import Any

import torch

from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.machine.resources import free_memory

MOST = 0.6  # of the free memory: weights, gradients and AdamW's moments are not counted
OF_A_TOKEN = 34  # bytes of activations for each number of a token in a block, in 16 bits
WITH_FLOAT32 = 2


def needs_checkpointing(
    encoder: TimmViT, batch_size: int, dtype: str, device: torch.device
) -> bool:
    """Whether a step is to keep the inputs of blocks alone, and compute the rest again.

    Activations of a block are about 34 bytes for each number of each token in 16 bits, without the
    attention's matrix, which is not kept (Korthikanti et al., 2022, equation 2).

    Args:
        encoder: that is trained.
        batch_size: images of a step.
        dtype: of matrix products.
        device: where it is trained.
    """
    model: Any = encoder.module
    if not hasattr(model, "set_grad_checkpointing") or not hasattr(model, "blocks"):
        return False
    tokens = encoder.count_tokens((torch.empty(1, 3, encoder.image_size, encoder.image_size),))
    bytes_each = OF_A_TOKEN * (1 if dtype == "bfloat16" else WITH_FLOAT32)
    needed = batch_size * tokens * encoder.token_dim * bytes_each * len(model.blocks)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return free is not None and needed > MOST * free
