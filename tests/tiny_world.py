"""A model and images small enough that a test takes a moment, and real all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungistore.machine.device import multiplies_exactly

TINY = "test_vit"  # timm's own test model: 64 wide, 6 blocks, 160 pixels, class token
needs_vnni = pytest.mark.skipif(not multiplies_exactly(), reason="needs VNNI instructions")


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` smooth colourful JPEGs of varying shape."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = (90 + 5 * (number % 7), 80 + 3 * (number % 5))
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{number:03d}.jpg", quality=90)


def contents(store: Path) -> dict[str, bytes]:
    """Every file that an extraction makes, but what names the store or is about its locks."""
    files = {p.relative_to(store).as_posix(): p for p in store.rglob("*") if p.is_file()}
    left_out = ("store.json", ".locks/", "samples.parquet/")
    return {
        name: path.read_bytes() for name, path in files.items() if not name.startswith(left_out)
    }
