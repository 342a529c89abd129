"""What is adapted to, and adaptations as `fungi adapt` writes them, of random weights."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from fungistore.backbones.adapters.adaptation import (
    ADAPTATIONS,
    BACKBONE,
    CLASSIFIER,
    TABLES,
    adapter_config,
    publish_seen,
)
from fungistore.backbones.adapters.adapter import Adapter, trained_state
from fungistore.backbones.families import load_backbone
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.store.backend import open_backend
from fungistore.store.folder import Folder
from fungistore.store.store import Store
from fungistore.training.checkpoint import save_tensors
from fungistore.training.run_folder import Progress, RunFolder
from tiny_world import TINY

SIDE = 20
DONE = Progress(epoch=1, best_epoch=0, done=True, history=({"epoch": 1, "loss": 1.0},))


@cache
def _loaded(weights: Path) -> TimmViT:
    encoder = load_backbone(TINY, weights=weights, image_size=32)
    assert isinstance(encoder, TimmViT)
    return encoder


def tiny_encoder(weights: Path) -> TimmViT:
    """The tiny model at 32 pixels, with a module of its own; loaded once a session."""
    encoder = _loaded(weights)
    return replace(encoder, module=deepcopy(encoder.module))


def write_adaptation(
    place: Folder | Store | Path,
    adapter: Adapter,
    weights: Path,
    seen: Iterable[str],
    *,
    name: str = "mine",
    progress: Progress = DONE,
    seed: int = 0,
) -> Any:
    """Write an adaptation of the tiny model at 32 pixels; returns the adapted module.

    Args:
        place: a store, in which it has the name; or its own folder.
        adapter: how the model was adapted.
        weights: of the tiny model.
        seen: ids of the rows that it was trained on.
        name: of one in a store.
        progress: how far it is.
        seed: of what stands for trained weights.
    """
    folder = place.folder(ADAPTATIONS, name) if isinstance(place, Store) else place
    if isinstance(folder, Path):
        folder.mkdir(parents=True)
        folder = Folder(open_backend(folder))
    encoder = tiny_encoder(weights)
    adapter.attach(encoder.module, seed=seed)
    torch.manual_seed(seed)
    for tensor in trained_state(encoder.module).values():
        tensor.data += 0.1 * torch.randn_like(tensor)
    ids = list(seen)
    run = RunFolder(folder, "adaptation", TABLES)
    run.begin(
        {
            "schema": 2,
            "adapter": adapter_config(adapter),
            "backbone": encoder.identity(),
            "classes": ["cat", "dog"],
            "rows": {"seen": publish_seen(folder, ids, np.zeros(len(ids), np.uint64))},
        }
    )
    classifier = nn.Linear(encoder.embedding_dim, 2)
    state = {BACKBONE + n: t for n, t in trained_state(encoder.module).items()}
    state |= {CLASSIFIER + n: t for n, t in classifier.named_parameters()}
    save_tensors(run, progress, {f"best.{n}": t for n, t in state.items()})
    return encoder.module.requires_grad_(False)


def write_set(root, count=8, seed=0):
    """Two classes that colours tell: reddish and bluish noise."""
    random = np.random.default_rng(seed)
    for channel, name in enumerate(("red", "blue")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 130, (SIDE + number % 3, SIDE, 3), dtype=np.uint8)
            pixels[..., 2 * channel] += 120
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root
