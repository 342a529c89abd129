"""A batch, launched on a GPU that is not there, mixes no devices and waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import DataDependentOutputException

from fake_gpu import GPU
from fungistore.extraction.batches import stack_drawn
from fungistore.extraction.freeze import throwaway_features
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import resolve
from fungistore.gradients.general import LayerPath
from fungistore.objectives.dino import DINO

FEATURES = ("embeddings", "kl", "dino", "simclr", "patches")


@pytest.mark.filterwarnings("ignore:Accessing the data pointer:UserWarning")  # by copy.deepcopy
@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("view_size", ["model", "native"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("model", ["test_vit", "test_vit3"])
def test_a_batch_stays_on_the_gpu(
    weights_file: Callable[[str], Path],
    photos: list[NDArray[np.uint8]],
    model: str,
    dtype: Any,
    view_size: str,
) -> None:
    """By the class-token path and the general one, every feature is made there and left there.

    What float32 there is beside a trunk of lower precision is multiplied as TF32.
    """
    options = ExtractOptions(
        model=model,
        weights=str(weights_file(model)),
        features=FEATURES,
        device="cuda",
        dtype=dtype,
        view_size=view_size,
        objectives={"dino": DINO(augment="full" if view_size == "native" else "crops")},
    )
    resolved = resolve(options, {})
    if isinstance(resolved.path, LayerPath):
        resolved.path._is_checked = True  # once a run the check of the layer waits for the GPU
    maker = throwaway_features(resolved)
    precisions = set()
    resolved.backbone.module.norm.register_forward_hook(
        lambda *_: precisions.add(torch.backends.cuda.matmul.fp32_precision)
    )
    wanted = frozenset(FEATURES)
    drawn = [maker.drawer.draw(photo, str(number), wanted) for number, photo in enumerate(photos)]
    rows = maker.launch(stack_drawn(drawn), wanted)
    assert {name: array.device for name, array in rows.items()} == dict.fromkeys(rows, GPU)
    assert len(rows) == 2 + 2 * 3
    assert precisions == {"ieee" if dtype == "float32" else "tf32"}
    assert all(len(array) == len(photos) for array in rows.values())


@pytest.mark.usefixtures("fake_gpu")
def test_the_fake_gpu_finds_what_it_is_for() -> None:
    """It refuses tensors of both devices, and to tell a value."""
    on_gpu = torch.ones(3, device="cuda")
    assert (on_gpu + 1).device == GPU
    assert (torch.ones(3) + 1).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="device"):
        on_gpu @ torch.ones(3)
    with pytest.raises(DataDependentOutputException):
        int(on_gpu.max())
