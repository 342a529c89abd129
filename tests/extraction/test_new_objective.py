"""Objectives that fungi does not know, added as a user would: a package with an entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr

from fungistore.errors import UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.fingerprint import Config
from fungistore.objectives.registry import OBJECTIVES
from plugins import install, write_plugin
from tiny_world import TINY

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from fungistore.modalities.image.pixels import NormalizedViews
from fungistore.modalities.image.crops import RandomCrops, SizedFamily
from fungistore.modalities.requests import CropFamily, Crops
from fungistore.modalities.views import ViewGroup
from fungistore.objectives.objective import BankPlan, BankSpec, Needs


@dataclass(frozen=True)
class Agreement:
    """Two crops of an image must have the same projection, unlike the mean of all images."""

    weight: float = 1.0
    head_dim: int = 8

    name: ClassVar[str] = "agreement"

    @property
    def needs(self):
        return Needs(
            heads={"projection": self.head_dim},
            views=Crops((CropFamily(2, (0.3, 1.0)),)),
            bank=BankSpec("prototypes", width=self.head_dim, samples=None),
        )

    def latents(self, views, heads):
        return heads["projection"](views.embeddings)

    def reduce(self, latents):
        return latents.mean(0, keepdim=True)

    def losses(self, views, heads, bank):
        first, second = self.latents(views, heads).unbind(1)
        near, far = (first - second).square().sum(-1), (first - bank).square().sum(-1)
        return self.weight * (near - 0.1 * far)


class Corner:
    """The upper left quarter of an image: a recipe of the plug-in's own."""

    def recipe(self, encoder, view_size):
        return NormalizedViews(Quarter(encoder.image_size), encoder.statistics)


@dataclass(frozen=True)
class Quarter:
    side: int

    @property
    def groups(self):
        return (ViewGroup(1, self.side),)

    def on(self, device):
        return self

    def draw(self, image, random):
        quarter = image[: (len(image) + 1) // 2, : (image.shape[1] + 1) // 2]
        return RandomCrops((SizedFamily(1, self.side, (1.0, 1.0)),)).draw(quarter, random)

    def render(self, drawn, group, views):
        return drawn[0][:, views].float() / 255


@dataclass(frozen=True)
class Corners:
    """The tokens of a corner must be alike."""

    name: ClassVar[str] = "corners"

    @property
    def needs(self):
        return Needs(heads={}, token_heads={"projection": 4}, views=Corner(), tokens=True)

    def losses(self, views, heads, bank):
        (grid,) = views.tokens
        (crops,) = views.drawn
        assert len(crops) == len(grid.tokens)
        return heads["projection"](grid.tokens).flatten(1, -2).var(1).sum(-1)


@dataclass(frozen=True)
class Parts:
    """Tokens of three crops must be far from the mean tokens of other images' first two crops."""

    prototypes: int = 3

    name: ClassVar[str] = "parts"

    @property
    def needs(self):
        return Needs(
            heads={},
            token_heads={"projection": 4},
            views=Crops((CropFamily(2, (0.3, 1.0)), CropFamily(1, (0.1, 0.3)))),
            tokens=True,
            bank=BankSpec("parts", 4, samples=None, per_sample=2, most=5, views=2),
        )

    def plan_bank(self, samples, width):
        return BankPlan((self.prototypes, width), f"{self.prototypes} parts of {samples} images")

    def latents(self, views, heads):
        assert views.embeddings.shape[1] == 2
        return self.means(views, heads)

    def reduce(self, latents):
        assert latents.shape == (10, 4)
        return latents[: self.prototypes]

    def losses(self, views, heads, bank):
        assert bank.shape == (self.prototypes, 4)
        return (self.means(views, heads) @ bank.T).logsumexp(-1).mean(1)

    def means(self, views, heads):
        tokens = torch.cat([grid.tokens.flatten(2, -2) for grid in views.tokens], 1)
        return heads["projection"](tokens).mean(2)
'''
FEATURES = ("agreement", "corners", "kl", "parts")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A package of somebody else's, where PYTHONPATH finds it."""
    folder = tmp_path / "site"
    names = {
        name: f"their_objectives:{name.capitalize()}" for name in ("agreement", "corners", "parts")
    }
    write_plugin(folder, "their_objectives", SOURCE, {"fungistore.objectives": names})
    return folder


def fungi(plugin: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command with the plug-in installed."""
    environment = os.environ | {"PYTHONPATH": str(plugin), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fungi_cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def gradients_of(store: Path, feature: str) -> np.ndarray:
    group = zarr.open_group(store / "features.zarr" / TINY, mode="r")
    array = group[f"gradients/{feature}"]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[:])


@pytest.fixture
def arguments(images: Path, tiny_weights: Path) -> Sequence[object]:
    """What all extractions here have in common."""
    flags = ["--model", TINY, "--weights", tiny_weights, "--image-size", 32]
    flags += ["--features", ",".join(FEATURES)]
    return [images, *flags, "--batch-size", 4, "--unit-rows", 4, "--device", "cpu"]


@pytest.mark.slow
def test_a_plugins_objectives_are_features(
    plugin: Path, arguments: Sequence[object], tmp_path: Path
) -> None:
    """Views, a bank, tokens, both, and own recipes; its fields are settings and fingerprints."""
    images, *flags = arguments
    store = tmp_path / "s.fungi"
    done = fungi(plugin, "extract", images, store, *flags, "--set", "agreement.weight=2")
    assert done.returncode == 0, done.stderr
    for feature in FEATURES:
        lengths = np.linalg.norm(gradients_of(store, feature).astype(float), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-2)
    assert "parts: 3 parts of 5 images" in done.stderr
    assert list(store.glob("setups/*/bank.parts.safetensors"))
    (bank,) = store.glob("setups/*/bank.prototypes.safetensors")
    checksums: Config = json.loads((bank.parent / "checksums.json").read_text())
    assert bank.name in checksums
    refused = fungi(plugin, "extract", images, store, *flags, "--set", "agreement.weight=3")
    assert refused.returncode == 4
    assert "agreement.weight: stored 2.0, asked 3.0" in refused.stderr
    verified = fungi(plugin, "verify", store)
    assert verified.returncode == 0, verified.stderr


@pytest.mark.slow  # tests/test_toy_modality.py has a quick one
@pytest.mark.parametrize("flags", [["--decode-in", "processes"], ["--processes", "2"]], ids=str)
def test_a_plugins_objectives_survive_in_child_processes(
    plugin: Path, arguments: Sequence[object], tmp_path: Path, flags: list[str]
) -> None:
    """Whoever draws or computes, the features are the same."""
    images, *common = arguments
    assert fungi(plugin, "extract", images, tmp_path / "one.fungi", *common).returncode == 0
    done = fungi(plugin, "extract", images, tmp_path / "more.fungi", *common, *flags)
    assert done.returncode == 0, done.stderr
    for feature in FEATURES:
        ours, theirs = (gradients_of(tmp_path / f"{n}.fungi", feature) for n in ("one", "more"))
        assert np.array_equal(ours, theirs)


@pytest.mark.slow
def test_a_feature_does_not_change_with_what_reads_tokens_beside_it(
    plugin: Path, arguments: Sequence[object], tmp_path: Path
) -> None:
    """KL takes the fast path, beside an objective of tokens on the general one: the same bits."""
    images, *flags = arguments
    assert fungi(plugin, "extract", images, tmp_path / "both.fungi", *flags).returncode == 0
    flags[flags.index(",".join(FEATURES))] = "kl"
    assert fungi(plugin, "extract", images, tmp_path / "kl.fungi", *flags).returncode == 0
    both, alone = (gradients_of(tmp_path / f"{name}.fungi", "kl") for name in ("both", "kl"))
    assert np.array_equal(both, alone)


@pytest.mark.slow
@pytest.mark.parametrize("beside", ["", "agreement,"])
def test_our_own_features_need_no_plugin(
    plugin: Path, arguments: Sequence[object], tmp_path: Path, images: Path, beside: str
) -> None:
    """Made while a plug-in was there, or with its features, they are continued without it."""
    source, *flags = arguments
    place = flags.index(",".join(FEATURES))
    flags[place] = f"{beside}embeddings,kl"
    store, nobody = tmp_path / "s.fungi", tmp_path / "nobody"
    nobody.mkdir()
    assert fungi(plugin, "extract", source, store, *flags, "--limit", 4).returncode == 0
    flags[place] = "embeddings,kl"
    again = fungi(nobody, "extract", source, store, *flags)
    assert again.returncode == 0, again.stderr
    assert fungi(nobody, "index", store, "--features", "embeddings,kl").returncode == 0
    query = next(iter(sorted(images.rglob("*.jpg"))))
    found = fungi(nobody, "search", store, query, "--json")
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_package\n", "cannot be imported"),
        (SOURCE.replace("weight: float = 1.0", "weight: float"), "no agreement.weight given"),
    ],
    ids=["import", "needed"],
)
def test_an_objective_that_is_not_asked_for_disturbs_nobody(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is broken, or has to be given a parameter, is refused where it is a feature."""
    entries = {"fungistore.objectives": {"agreement": "agreement:Agreement"}}
    write_plugin(tmp_path / "plugin", "agreement", source, entries)
    install(monkeypatch, tmp_path / "plugin", "agreement", OBJECTIVES)
    options = ExtractOptions(model="m", features=("embeddings", "kl"))
    assert ExtractOptions.from_config(options.to_config()) == options
    with pytest.raises(UsageError, match=said):
        ExtractOptions(model="m", features=("agreement",))


def test_a_needed_parameter_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field without a default is set like others, and is kept whether it is extracted or not."""
    entries = {"fungistore.objectives": {"agreement": "agreement:Agreement"}}
    source = SOURCE.replace("weight: float = 1.0", "weight: float")
    write_plugin(tmp_path / "plugin", "agreement", source, entries)
    install(monkeypatch, tmp_path / "plugin", "agreement", OBJECTIVES)
    for features in (("agreement",), ("embeddings",)):
        config = {"model": "m", "set": ["agreement.weight=2"], "features": features}
        options = ExtractOptions.from_config(config)
        assert ExtractOptions.from_config(options.to_config()) == options
