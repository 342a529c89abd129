"""A training step on a GPU that is not there mixes no devices and waits for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fake_gpu import GPU
from fungistore.loff.augment import augment, draw
from fungistore.loff.head import HeadSpec
from fungistore.loff.heads import build_head
from fungistore.loff.options import HEADS, Augmentation
from fungistore.machine.transfer import send

COUNT, GRID, CHANNELS, CLASSES = 4, (5, 6), 24, 3
SHAPE = (COUNT, *GRID, CHANNELS)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("kind", [name for name in HEADS if name != "linear"])
def test_a_step_stays_on_the_gpu(kind: str) -> None:
    """Tokens, augmented in every way but by noise, whose generator is the GPU's own, and a head."""
    head = build_head(HeadSpec(kind, CHANNELS, CLASSES, GRID), seed=0).to(GPU)
    tokens = torch.zeros(SHAPE, dtype=torch.float16, device=GPU)
    labels = send(torch.tensor([0, 1, 2, 1]), GPU)
    targets = torch.nn.functional.one_hot(labels, CLASSES).float()
    spec = Augmentation(noise=0.0, brightness=0.3, mixup=0.4, cutmix=1.0)
    with torch.no_grad():
        tokens, targets = augment(
            head.standardise(tokens), targets, draw(spec, SHAPE, seed=0, epoch=0, step=0)
        )
    loss = torch.nn.functional.cross_entropy(head.classify(tokens), targets, label_smoothing=0.1)
    assert (tokens.device, targets.device, loss.device) == (GPU, GPU, GPU)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_resampling_stays_on_the_gpu(interpolation: Any, padding: Any) -> None:
    """However cells are read and whatever is beyond the border."""
    spec = Augmentation(noise=0.0, interpolation=interpolation, padding=padding)
    drawn = draw(spec, SHAPE, seed=0, epoch=0, step=0)
    tokens = torch.zeros(SHAPE, dtype=torch.float16, device=GPU)
    found, _ = augment(tokens, torch.zeros(COUNT, CLASSES, device=GPU), drawn)
    assert found.device == GPU
    assert found.shape == SHAPE
