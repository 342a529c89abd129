"""Weights of a bank's features, and what makes the index of a bank anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fungistore as fungi
from feature_world import make_store
from fungistore.matrices.tokens import open_tokens
from fungistore.store.store import Store

INDEX = "banks/test_vit/all"


@pytest.fixture
def grids(tmp_path: Path) -> Store:
    """A store of two features of patches, written by hand."""
    random = np.random.default_rng(0)
    blocks = {
        name: random.standard_normal((6, 2, 3, dim)).astype(np.float16)
        for name, dim in {"patches": 5, "patch-gradients/kl": 3}.items()
    }
    return make_store(tmp_path / "grids.fungi", blocks, [None] * 6, unit_rows=4)


def test_weights_go_with_the_features_as_they_are_named(grids: Store) -> None:
    """Patches come first in a vector whatever was named first, and the weights come along."""
    one = open_tokens(grids, ["patches", "patches/kl"], weights=[1, 3])
    other = open_tokens(grids, ["patches/kl", "patches"], weights=[3, 1])
    assert one.features == other.features == ("patches", "patches/kl")
    np.testing.assert_array_equal(one.read(0, 6), other.read(0, 6))
    shares = np.linalg.norm(other.read(0, 6)[..., :5], axis=-1)
    np.testing.assert_allclose(shares, 1 / np.sqrt(10), rtol=1e-5)


@pytest.mark.parametrize("weight", [0.25, 2.0])
def test_a_feature_alone_is_of_unit_length_whatever_it_weighs(grids: Store, weight: float) -> None:
    """Cosines are divided by a temperature: a length of two would be a temperature of a quarter."""
    tokens = open_tokens(grids, ["patches"], weights=[weight]).read(0, 6)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=-1), 1, rtol=1e-5)


@pytest.fixture
def indexed(scenes: Store, tmp_path: Path) -> Path:
    """A bank that is searched through an index."""
    shutil.copytree(scenes.root, tmp_path / "scenes.fungi")
    _index(tmp_path / "scenes.fungi", 0.01)
    return tmp_path / "scenes.fungi"


def _index(store: Path, target: float) -> int:
    """Make the index, and return how many lists a search looks into."""
    options = fungi.BankOptions(name="all", factory="IVF8,Flat", target_recall=target)
    fungi.build_bank(store, options)
    effort: int = json.loads((store / INDEX / "bank.json").read_text())["effort"]["nprobe"]
    return effort


def test_another_target_recall_settles_the_effort_anew(indexed: Path) -> None:
    assert _index(indexed, 0.999) > _index(indexed, 0.01)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_the_same_command_mends_a_damaged_index(indexed: Path, damage: str) -> None:
    """As its message says; a sound one is kept."""
    (file,) = (indexed / INDEX).glob("*.faiss")
    sound, made = file.read_bytes(), file.stat().st_mtime_ns
    _index(indexed, 0.01)
    assert file.stat().st_mtime_ns == made
    file.write_bytes(sound[:-1]) if damage == "cut" else file.unlink()
    _index(indexed, 0.01)
    assert file.read_bytes() == sound
    assert fungi.open_bank(indexed, "all").index is not None
