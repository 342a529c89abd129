"""Damage in random places: `verify` finds all that changes data, repair and extract restore it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from store_damage import are_equal, contents, copied, damage

from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store
from tiny_world import TINY, write_images

BEYOND_REPAIR = {
    *("manifest-damaged", "samples-damaged", "setup-damaged", "setup-missing"),
    "array-damaged",  # of a grid, whose shape its metadata alone say
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_weights):
    """A store of 20 real images in units of 8, one image broken, and how it was made."""
    place = tmp_path_factory.mktemp("repair")
    write_images(place / "images" / "cat", 10, seed=1)
    write_images(place / "images" / "dog", 10, seed=2)
    (place / "images" / "dog" / "003.jpg").write_text("no image")
    options = ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        features=("embeddings", "kl", "patches"),
        unit_rows=8,
        batch_size=8,
        dtype="float32",
        codec="none",
        device="cpu",
    )
    extract(str(place / "images"), place / "s.fungi", options)
    return place, options


def check_places(world, tmp_path, seeds):
    place, options = world
    right = contents(place / "s.fungi")
    changed = restored = 0
    for seed in seeds:
        root = copied(place / "s.fungi", tmp_path / "s.fungi")
        what = damage(root, np.random.default_rng(seed))
        try:
            is_same = are_equal(contents(root), right)
        except Exception:  # whatever it is, a reader cannot read it
            is_same = False
        found = verify_store(root)
        assert is_same or not found.is_sound, f"seed {seed}: {what} was not found"
        changed += not is_same
        left = repair_store(root).verification
        if left.is_sound:
            extract(str(place / "images"), root, options)
            assert are_equal(contents(root), right), f"seed {seed}: {what} was not restored"
            again = verify_store(root)
            assert again.is_sound, f"seed {seed}: {what}: {again.findings}"
            restored += not is_same
        else:
            kinds = {finding.kind for finding in left.errors}
            assert kinds <= BEYOND_REPAIR, f"seed {seed}: {what}: {left.errors}"
        shutil.rmtree(root)
    assert changed > len(seeds) // 2
    assert restored > len(seeds) // 4


def test_damage_in_a_few_places_is_found_and_repaired(world, tmp_path):
    """Five of the two hundred places."""
    check_places(world, tmp_path, range(5))


@pytest.mark.slow
def test_damage_in_two_hundred_places_is_found_and_repaired(world, tmp_path):
    """Flips, truncations, empty files, deletions, swaps and edits anywhere in the store."""
    check_places(world, tmp_path, range(200))
