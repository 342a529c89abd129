"""Real small models with seeded weights, and real photographs, for the tests of the model side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

SeededModel = Callable[..., Any]
WeightsFile = Callable[[str], Path]


def _seeded_model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, pretrained=False, **options).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms, biases and layer scales start as constants
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif name.endswith("weight"):  # timm's are so small that all images embed alike
            parameter.data *= 3
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def seeded_model() -> SeededModel:
    """Build a timm model whose weights are random, always the same, and nowhere trivial."""
    return _seeded_model


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    """Save a seeded model's weights as safetensors, without its classifier, once a session."""
    folder = tmp_path_factory.mktemp("weights")

    def save(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_file(_seeded_model(name, num_classes=0).state_dict(), path)
        return path

    return save


@pytest.fixture(scope="session")
def photos() -> list[NDArray[np.uint8]]:
    """Six photographs of several shapes: cuts of the two that ship with scikit-learn."""
    china = np.ascontiguousarray(load_sample_image("china.jpg"))
    flower = np.ascontiguousarray(load_sample_image("flower.jpg"))
    return [
        china,
        flower,
        np.ascontiguousarray(china[100:400, :300]),
        np.ascontiguousarray(flower[:, 200:420]),
        np.ascontiguousarray(china[50:250, 150:640]),
        np.ascontiguousarray(flower[60:410, 250:600]),
    ]
