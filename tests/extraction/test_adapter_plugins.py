"""A method of adapting from a plug-in: extracted with, and missed where the plug-in is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapted_world import write_adaptation
from fungistore.backbones.adapters.adaptation import ADAPTATIONS, read_adaptation
from fungistore.backbones.adapters.registry import ADAPTERS
from fungistore.errors import UsageError
from fungistore.extraction.adapted import find_adaptation
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import resolve
from fungistore.extraction.stage import extract
from fungistore.gradients.general import LayerPath
from fungistore.store.store import Store
from plugins import install, write_plugin
from tiny_world import TINY, write_images

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fungistore.backbones.adapters.adapter import run_behind


class Gate(nn.Module):
    def __init__(self, width, start):
        super().__init__()
        self.strength = nn.Parameter(torch.full((width,), start))

    def forward(self, layer, inputs, output):
        return output * self.strength


@dataclass(frozen=True)
class Gates:
    """A factor of each channel of each attention's output."""

    start: float = 1.0

    name: ClassVar[str] = "gates"
    learning_rate: ClassVar[float] = 1e-3

    def attach(self, model, *, seed):
        model.requires_grad_(False)
        for block in model.blocks:
            run_behind(block.attn, "gates", Gate(model.embed_dim, self.start))

    def merge(self, model):
        pass
'''


def test_a_method_of_a_plugin_is_extracted_with(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its settings; what runs behind the last attention takes the general path."""
    entry = {"fungistore.adapters": {"gates": "their_gates:Gates"}}
    assert "gates" not in ADAPTERS
    write_plugin(tmp_path / "site", "their_gates", SOURCE, entry)
    images, place = tmp_path / "images", tmp_path / "s.fungi"
    write_images(images / "cat", 3)
    store = Store.open_or_create(place)
    with monkeypatch.context() as patched:
        install(patched, tmp_path / "site", "their_gates", ADAPTERS)
        write_adaptation(store, ADAPTERS["gates"](start=0.5), tiny_weights, ["a"])
        given = {"image_size": 32, "features": ("embeddings", "kl"), "dtype": "float32"}
        options = ExtractOptions(
            model=TINY, weights=str(tiny_weights), adapter="mine", device="cpu", **given
        )
        resolved = resolve(options, {}, find_adaptation("mine", place))
        assert isinstance(resolved.path, LayerPath)
        assert extract(images, place, options).failed == 0
        array = Store.open(place).arrays(f"{TINY}-mine")["gradients/kl"]
        config = store.setups.config(array.fingerprint)["backbone"]["adapter"]
        assert (config["method"], config["settings"]) == ("gates", {"start": 0.5})
        assert np.isfinite(array.array[:3]).all()
    with pytest.raises(UsageError, match="unknown adapter") as caught:
        read_adaptation(store.folder(ADAPTATIONS, "mine"))
    assert caught.value.found == "gates"
    assert "vpt" in str(caught.value.expected)
