"""Shared fixtures: a tiny real model with weights in a file, and folders of real images.

The model side runs under jaxtyping and beartype here, so a wrong shape or dtype fails a test.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

install_import_hook(
    ["fungistore.gradients", "fungistore.objectives", "fungistore.views"], "beartype.beartype"
)

TINY = "test_vit"  # timm's own test model: 64 wide, 6 blocks, 160 pixels, class token


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny model, random but with non-trivial norms and biases."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(TINY, pretrained=False, num_classes=0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return path


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` smooth colourful JPEGs of varying shape."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = (90 + 5 * (number % 7), 80 + 3 * (number % 5))
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{number:03d}.jpg", quality=90)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes, 12 images each."""
    root = tmp_path / "images"
    write_images(root / "cat", 12, seed=1)
    write_images(root / "dog", 12, seed=2)
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs needs privileges")
    yield place
    subprocess.run(["umount", str(place)], check=True)
