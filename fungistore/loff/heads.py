"""Builds compact classifiers of cached features: LOFF's small ViTs, and cheaper ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fungistore.loff.head import Head, HeadSpec
from fungistore.loff.options import LINEAR
from fungistore.loff.pooling_heads import LinearHead, QueryHead, StatisticsHead
from fungistore.loff.pretrained import load_encoder
from fungistore.loff.transformer_head import ENCODERS, TransformerHead
from fungistore.randomness import Stream

OTHERS: Mapping[str, type[Head]] = {
    "attn-pool": QueryHead,
    "stat-pool": StatisticsHead,
    LINEAR: LinearHead,
}


def build_head(spec: HeadSpec, *, seed: int) -> Head:
    """Build a head on the CPU, in float32, its weights decided by the spec and the seed.

    torch's global random state is left as it was.

    Args:
        spec: what to build.
        seed: of the initial weights; a stream of its own.

    Raises:
        FungiError: timm's weights could not be had.
        UsageError: the weights file is missing, unreadable, or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs too, which are not forked
        torch.default_generator.manual_seed(
            int(Stream(seed, "head", "weights").words(1)[0] >> np.uint64(1))
        )
        if spec.kind in OTHERS:
            return OTHERS[spec.kind](spec)
        head = TransformerHead(spec)
        if spec.init != "random":
            assert spec.grid is not None  # HeadSpec has checked it
            load_encoder(head, spec.grid, spec.init, ENCODERS[spec.kind].timm)
        return head
