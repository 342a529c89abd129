"""Objectives of plug-ins that are odd: what they break, and whose extraction stays whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from fungistore.errors import UsageError
from fungistore.extraction import measure
from fungistore.extraction.freeze import array_configs
from fungistore.extraction.measure import Rate, estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import resolve
from fungistore.objectives.needs import refuse_odd_needs
from fungistore.objectives.objective import Needs, Neighbors
from fungistore.objectives.registry import OBJECTIVES, own_objectives
from plugins import install, write_plugin
from tiny_world import TINY, write_images

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

from fungistore.objectives.objective import BankSpec, Needs


@dataclass(frozen=True)
class Clusters:
    """Far from as many prototypes as it is told to make of all samples."""

    prototypes: int

    name: ClassVar[str] = "clusters"

    @property
    def needs(self):
        return Needs(heads={"projection": 4}, bank=BankSpec("prototypes", 4, samples=None))

    def latents(self, views, heads):
        return heads["projection"](views.embeddings)

    def reduce(self, latents):
        if len(latents) < self.prototypes:
            raise ValueError("too few latents")
        return latents[: self.prototypes]

    def losses(self, views, heads, bank):
        return (self.latents(views, heads)[:, 0] @ bank.T).logsumexp(-1)
'''


def plugin(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str = SOURCE) -> None:
    """Install an objective under a name."""
    entry = {"fungistore.objectives": {name: "odd_objective:Clusters"}}
    write_plugin(folder, "odd_objective", source, entry)
    install(monkeypatch, folder, "odd_objective", OBJECTIVES)


def test_a_parameter_without_default_is_asked_for_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Extractions of other features need not give it."""
    plugin(monkeypatch, tmp_path, "clusters")
    assert set(ExtractOptions(model=TINY).objectives) == set(own_objectives())
    with pytest.raises(UsageError, match=r"no clusters\.prototypes given"):
        ExtractOptions(model=TINY, features=("clusters",))
    options = ExtractOptions.from_config(
        {"model": TINY, "features": ["clusters"], "clusters": {"prototypes": 3}}
    )
    assert options.objectives["clusters"].prototypes == 3


def test_a_broken_plugin_hinders_only_its_own_features(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its package is imported by those who ask for it."""
    plugin(monkeypatch, tmp_path, "clusters", "import a_module_that_is_not_there")
    options = ExtractOptions(model=TINY, features=("kl", "dino"))
    assert ExtractOptions.from_config(options.to_config()) == options
    with pytest.raises(UsageError, match="cannot be imported"):
        ExtractOptions(model=TINY, features=("clusters",))


@pytest.mark.parametrize("name", ["model", "pool", "set", "embeddings", "patches", "backbone"])
def test_a_name_that_means_something_else_is_no_objectives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """A setting or a part of a configuration keeps its meaning; the plug-in cannot be asked for."""
    plugin(monkeypatch, tmp_path, name)
    options = ExtractOptions.from_config({"model": TINY, "pool": 2, "features": ["embeddings"]})
    assert ExtractOptions.from_config(options.to_config()) == options
    assert name not in options.objectives
    with pytest.raises(UsageError, match=r"unknown objective|value of"):
        ExtractOptions(model=TINY, features=(name,), objectives={name: {"prototypes": 2}})


def test_no_part_of_a_features_configuration_can_be_an_objectives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_weights: Path
) -> None:
    """The objective's parameters stand among them, under its name."""
    features = ("embeddings", "simclr", "patches")
    options = ExtractOptions(model=TINY, weights=str(tiny_weights), features=features)
    configs = array_configs(resolve(options, {}))
    parts = {key for config in configs.values() for key in config} - {"simclr"}
    for name in parts:
        with monkeypatch.context() as patch:
            plugin(patch, tmp_path / name, name)
            with pytest.raises(UsageError, match="unknown objective"):
                ExtractOptions(model=TINY, objectives={name: {"prototypes": 2}})


def test_two_plugins_of_one_name_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which of them counts must not depend on the order of folders."""
    plugin(monkeypatch, tmp_path, "clusters")
    entry = {"fungistore.objectives": {"clusters": "another_objective:Clusters"}}
    write_plugin(tmp_path, "another_objective", SOURCE, entry)
    with pytest.raises(UsageError, match="declared by two plug-ins"):
        ExtractOptions(model=TINY, objectives={"clusters": {"prototypes": 2}})


def test_a_bank_of_all_samples_is_counted_and_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_weights: Path
) -> None:
    """A dry run has prototypes enough to measure with, and counts every sample of the train split.

    A limit of the features is none of the bank's.
    """
    plugin(monkeypatch, tmp_path / "site", "clusters")
    write_images(tmp_path / "images" / "train" / "a", 3)
    write_images(tmp_path / "images" / "test" / "a", 2)
    monkeypatch.setattr(measure, "measure_rate", lambda *_: Rate(1, 1))
    options = ExtractOptions.from_config(
        {"model": TINY, "weights": str(tiny_weights), "image_size": 32, "features": ["clusters"]}
        | {"device": "cpu", "limit": 1, "clusters": {"prototypes": 1000}}
    )
    told = estimate(tmp_path / "images", tmp_path / "s.fungi", options)
    assert told.seconds == (1 + 3, 1 + 3)


@pytest.mark.parametrize(
    ("name", "needs", "message"),
    [
        ("dense", Needs({}, tokens=True, per_token=True), "begins with patches/"),
        ("patches/mine", Needs({}, tokens=True), "per_token=True"),
        ("patches/mine", Needs({}, tokens=True, per_token=True, views="v"), "views of its own"),
        ("mine", Needs({}, token_draws=2, views="v"), "views of its own"),
        ("mine", Needs({}, tokens=True, neighbors=Neighbors(2)), "a bank that it has not"),
    ],
)
def test_needs_that_contradict_each_other_are_refused(
    name: str, needs: Needs, message: str
) -> None:
    """They ended in a KeyError, an IndexError, or a setup that did not say how it was stored."""
    with pytest.raises(UsageError, match=message):
        refuse_odd_needs(name, needs)


def test_our_own_objectives_need_nothing_odd() -> None:
    for name in OBJECTIVES.own:
        refuse_odd_needs(name, OBJECTIVES[name]().needs)
