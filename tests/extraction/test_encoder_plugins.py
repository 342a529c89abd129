"""An image encoder of a plug-in: convolutions, a grid that is not square, no linear layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from torch import nn

from fungistore.backbones.families import FAMILIES
from fungistore.errors import UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from plugins import install, write_plugin
from tiny_world import write_images

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from fungistore.backbones.encoder import Encoded, TokenGrid
from fungistore.modalities.views import ViewGroup


@dataclass(frozen=True)
class Wide:
    groups: ClassVar = (ViewGroup(1, 32),)

    def on(self, device):
        return self

    def draw(self, image, random):
        wide = np.asarray(Image.fromarray(image).resize((32, 16)))
        return (np.ascontiguousarray(wide.transpose(2, 0, 1)),)

    def render(self, drawn, group, views):
        return (drawn[0][:, None].float() / 255,)


class Conv:
    family, modality, name, weights_hash = "conv", "image", "wide", "none"
    embedding_dim = token_dim = 6
    token_shape, lengths_differ, base_view = (2, 4), False, Wide()
    target_layer = target = exact_from = None
    is_thread_safe = False  # `run` takes the tokens from a hook's notes

    def __init__(self):
        torch.manual_seed(0)
        self.module = nn.Conv2d(3, 6, 8, 8).requires_grad_(False)

    def identity(self):
        return {"family": self.family, "model": self.name, "weights": self.weights_hash}

    def count_tokens(self, inputs):
        return 8

    def prepare_trunk(self, dtype, *, compiled=False):
        pass

    def run(self, inputs):
        cells = self.module(*inputs).movedim(1, -1)
        return Encoded(cells.mean((1, 2)), TokenGrid(cells))

    def class_token_split(self):
        return None


class Convs:
    modality = "image"

    def load(self, name, **options):
        return Conv()
"""


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A few images, and the plug-in installed."""
    entry = {"fungistore.backbones": {"conv": "conv_plugin:Convs"}}
    write_plugin(tmp_path / "site", "conv_plugin", SOURCE, entry)
    install(monkeypatch, tmp_path / "site", "conv_plugin", FAMILIES)
    write_images(tmp_path / "images", 5)
    return tmp_path / "images"


def options(*features: str) -> ExtractOptions:
    return ExtractOptions(model="conv:wide", features=features, device="cpu", unit_rows=4)


def test_an_encoder_without_linear_layers_has_embeddings_and_patches(images: Path) -> None:
    """The grid keeps its rows and columns; its mean is the embedding."""
    extract(images, images.parent / "s.fungi", options("embeddings", "patches"))
    group = zarr.open_group(images.parent / "s.fungi" / "features.zarr" / "conv-wide", mode="r")
    embeddings, patches = (np.asarray(group[n][:], float) for n in ("embeddings", "patches"))
    assert patches.shape == (5, 2, 4, 6)
    np.testing.assert_allclose(embeddings, patches.mean((1, 2)), atol=2e-3)


@pytest.mark.parametrize("feature", ["kl", "dino"])
def test_gradients_of_no_layer_are_refused(images: Path, feature: str) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match="no layer to differentiate"):
        extract(images, images.parent / "s.fungi", options("embeddings", feature))
    assert not (images.parent / "s.fungi").exists()


def test_views_of_images_need_an_encoder_that_says_what_pixels_it_takes(
    monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    """A plug-in's encoder may lack an image_size: an error of ours says so."""
    kind = type(FAMILIES["conv"]().load("wide"))
    monkeypatch.setattr(kind, "target", nn.Linear(6, 6))
    with pytest.raises(UsageError, match="takes no views of images") as caught:
        extract(images, images.parent / "s.fungi", options("dino"))
    assert "image_size" in str(caught.value.expected)


def test_an_encoder_may_have_no_parameters(monkeypatch: pytest.MonkeyPatch, images: Path) -> None:
    """Means of cells, say: where it runs is the run's device, not that of a first parameter."""
    kind = type(FAMILIES["conv"]().load("wide"))
    for name in ("embedding_dim", "token_dim"):
        monkeypatch.setattr(kind, name, 3)
    monkeypatch.setattr(kind, "__init__", lambda self: setattr(self, "module", nn.AvgPool2d(8)))
    done = extract(images, images.parent / "s.fungi", options("embeddings", "patches"))
    assert (done.samples, done.failed) == (5, 0)
