"""Images for the benchmarks: cuts of real photographs, since noise compresses like nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

SHAPE = (375, 500)  # a typical photograph of ImageNet


def photographs(count: int) -> list[NDArray[np.uint8]]:
    """Return cuts of scikit-learn's two photographs, 375 x 500 pixels, all different."""
    random = np.random.default_rng(0)
    sources = load_sample_images().images
    cuts = []
    for number in range(count):
        source = sources[number % len(sources)]
        top, left = (int(random.integers(0, source.shape[i] - SHAPE[i] + 1)) for i in range(2))
        cuts.append(np.ascontiguousarray(source[top : top + SHAPE[0], left : left + SHAPE[1]]))
    return cuts


def write_photographs(images: Sequence[NDArray[np.uint8]], folder: Path) -> list[str]:
    """Write images as JPEG files, and return their names."""
    names = [f"{number:05}.jpg" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name, quality=92)
    return names
