"""Features of patch tokens over several runs: the order and the company of features is no matter.

On processors and GPUs whose default is bfloat16, patch tensors beside gradients come from a last
block in float32, and their setup says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from numpy.typing import NDArray
from safetensors.torch import save_file

from feature_world import make_store
from fungistore.errors import UsageError
from fungistore.extraction.options import ExtractOptions, ReplayChoice
from fungistore.extraction.replay import replay_extraction
from fungistore.extraction.resolve import resolve
from fungistore.extraction.stage import extract
from fungistore.extraction.transformer import FungiTransformer
from fungistore.machine.context import QUIET
from fungistore.matrices.blocks import open_features
from fungistore.sources.sample import NamedItem
from fungistore.store.feature import grid_path
from fungistore.store.store import Store
from tiny_world import TINY, write_images

Run = Callable[..., Store]


@pytest.fixture
def run(tmp_path: Path, tiny_weights: Path) -> Run:
    """Extract features of two images into a store of a name, with some settings."""
    images = tmp_path / "images"
    write_images(images, 2)

    def extracted(name: str, *features: str, **settings: object) -> Store:
        config = {"model": TINY, "weights": str(tiny_weights), "device": "cpu", "image_size": 48}
        config |= {"dtype": "bfloat16", "workers": 1, "batch_size": 2, "unit_rows": 2}
        options = ExtractOptions.from_config(config | settings | {"features": list(features)})
        extract(images, tmp_path / name, options, context=QUIET)
        return Store.open(tmp_path / name)

    return extracted


def stored(store: Store, feature: str) -> NDArray[np.float16]:
    return np.array(store.arrays(TINY)[grid_path(feature)].array[:])


def test_patches_are_the_same_whatever_stands_beside_them(run: Run) -> None:
    """One fingerprint is one tensor, made with gradients, after them, or again by a replay."""
    together = run("together", "patches", "patches/kl")
    run("later", "patches/kl")
    later = run("later", "patches")
    patches = together.arrays(TINY)["patches"]
    is_same = (stored(together, "patches") == stored(later, "patches")).all()
    assert is_same == (patches.fingerprint == later.arrays(TINY)["patches"].fingerprint)
    choice = ReplayChoice(device="cpu")
    replay = replay_extraction(together, TINY, {"patches": patches}, choice=choice, context=QUIET)
    rows = together.samples.rows(0, 2)
    items = [NamedItem(row["uri"], row["root"], row["uri"], row["id"]) for row in rows]
    for row, found in zip(stored(together, "patches"), replay.features(items, QUIET), strict=True):
        assert not isinstance(found, Exception)
        assert (found["patches"] == row).all()
    run("together", "patches", "embeddings")  # goes on as it was begun


def test_a_support_bank_is_borrowed(run: Run) -> None:
    """--bank-from finds banks of gradients of tokens, as it does those of simclr."""
    lender = run("lender", "patches/simclr")
    borrower = run("borrower", "patches/simclr", bank_from=str(lender.where))
    assert (stored(lender, "patches/simclr") == stored(borrower, "patches/simclr")).all()


def test_a_model_that_squeezes_and_crops_goes_on_as_it_was_begun(tiny_weights: Path) -> None:
    """Normalizer-free networks see the middle 90% of a squeezed image: that is not the whole."""
    options = ExtractOptions(model=TINY, weights=str(tiny_weights), device="cpu")
    transform = {"crop_mode": "squash", "crop_pct": 0.9}
    frozen = {f"backbone.transform.{name}": value for name, value in transform.items()}
    begun = resolve(options, {"backbone.name": TINY})
    assert resolve(options, frozen).backbone.identity() == begun.backbone.identity()
    whole = resolve(options, frozen | {"backbone.transform.crop_pct": 1.0})
    assert whole.backbone.identity()["transform"]["crop_mode"] == "squash"


def test_gradients_of_tokens_are_no_step_of_a_pipeline(tiny_weights: Path) -> None:
    """They are no vectors of images, just as patch tensors are not."""
    step = FungiTransformer(TINY, features=["embeddings", "patches/kl"], weights=tiny_weights)
    with pytest.raises(UsageError, match="no vectors"):
        step.fit([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.slow
def test_a_model_of_one_size_keeps_it(tmp_path: Path, tiny_weights: Path) -> None:
    """512 pixels are what nobody has asked for where a model does not take them."""
    dense = resolve(
        ExtractOptions(model=TINY, weights=str(tiny_weights), features=("patches/kl",)), {}
    )
    assert dense.backbone.token_shape == (32, 32)
    assert len(dense.choices) == 1
    save_file(timm.create_model("levit_128s").state_dict(), tmp_path / "levit.safetensors")
    weights = str(tmp_path / "levit.safetensors")
    fixed = resolve(
        ExtractOptions(model="levit_128s", weights=weights, features=("patches/kl",)), {}
    )
    assert fixed.backbone.identity()["image_size"] == 224
    assert fixed.choices == ()


def test_asked_for_as_vectors_they_are_called_what_they_are(tmp_path: Path) -> None:
    """Extracting them once more, as for features that are missing, would change nothing."""
    grids = np.ones((2, 2, 2, 4), np.float16)
    make_store(tmp_path / "s", {"patch-gradients/kl": grids}, [None, None])
    for asked in (["patches/kl"], ["patches"]):
        with pytest.raises(UsageError, match="no vectors of images"):
            open_features(tmp_path / "s", features=asked)
