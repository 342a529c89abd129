"""Features of several target layers: made at once or one by one, stopped, chosen by their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fungistore.errors import MismatchError, StoppedError, UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.replay import replay_extraction
from fungistore.extraction.stage import extract
from fungistore.extraction.target_layers import TargetLayers
from fungistore.extraction.transformer import FungiTransformer
from fungistore.machine.context import QUIET, Context
from fungistore.objectives.simclr import SimCLR
from fungistore.sources.sample import NamedItem
from fungistore.store.feature import in_order
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from tiny_world import TINY, contents, write_images

PROJ, FC2, LOW = "blocks.5.attn.proj", "blocks.5.mlp.fc2", "blocks.3.mlp.fc2"
SMALL = {"simclr": SimCLR(stride_scale=2, negatives=3)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images."""
    root = tmp_path_factory.mktemp("photos")
    write_images(root, 6)
    return root


@pytest.fixture(scope="module")
def options(tiny_weights: Path) -> ExtractOptions:
    """KL and SimCLR at the last projection, in float32."""
    return ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        features=("kl", "simclr"),
        dtype="float32",
        batch_size=2,
        unit_rows=2,
        objectives=SMALL,
        device="cpu",
    )


@pytest.fixture(scope="module")
def both(photos: Path, options: ExtractOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two layers, made at once."""
    store = tmp_path_factory.mktemp("both") / "s.fungi"
    extract(str(photos), store, replace(options, target_layer=(PROJ, FC2)))
    return store


def rows(store: Path) -> dict[str, bytes]:
    """Every stored number, and every frozen tensor."""
    names = ("features.zarr/", "setups/")
    found = {name: one for name, one in contents(store).items() if name.startswith(names)}
    return {name: one for name, one in found.items() if name.endswith(("safetensors", "/0", "/1"))}


def test_a_further_layer_adds_features_with_names_of_their_own(both: Path) -> None:
    """The first layer's have the plain names; those of the other differ, and share the bank."""
    store = Store.open(both)
    arrays = store.arrays(TINY)
    names = {f"{kind}/{name}{at}" for kind in ("gradients", "norms") for name in ("kl", "simclr")
             for at in ("", f"@{FC2}")}  # fmt: skip
    assert arrays.keys() == names
    first, other = arrays["gradients/simclr"], arrays[f"gradients/simclr@{FC2}"]
    assert store.setups.banks(first.fingerprint) == store.setups.banks(other.fingerprint)
    told = store.setups.config(other.fingerprint)["layers"]
    assert {name: shape["columns"] for name, shape in told.items()} == {FC2: 64 * (3 * 64 + 1)}
    assert not np.allclose(first.read(0, 2), other.read(0, 2), atol=0.1)
    assert verify_store(both).is_sound


def test_layers_one_by_one_are_those_made_at_once(
    both: Path, photos: Path, options: ExtractOptions, tmp_path: Path
) -> None:
    """A store of one layer goes on with two: nothing is made anew, and every bit is the same."""
    store = tmp_path / "s.fungi"
    before = extract(str(photos), store, options)
    old = rows(store)
    after = extract(str(photos), store, replace(options, target_layer=(PROJ, FC2)))
    assert rows(store) == rows(both)
    assert old.items() <= rows(store).items()
    assert before.fingerprints.items() <= after.fingerprints.items()
    assert before.banks["simclr"] == after.banks[f"simclr@{FC2}"]


@pytest.mark.slow
def test_a_stopped_run_of_several_layers_goes_on_to_the_same_store(
    both: Path, photos: Path, options: ExtractOptions, tmp_path: Path
) -> None:
    """With another number of workers, and features in another order, too."""
    store, asked = tmp_path / "s.fungi", (f"simclr@{FC2}", "kl", "simclr", f"kl@{FC2}")
    stops = 0
    for questions in (4, 7, 1000):
        left = iter(range(questions))
        try:
            extract(
                str(photos),
                store,
                replace(options, features=asked, workers=1 + stops),
                context=Context(stop=lambda left=left: next(left, None) is None),
            )
        except StoppedError:
            stops += 1
    assert stops == 2
    assert rows(store) == rows(both)


def test_an_earlier_layer_cannot_join_later(
    both: Path, photos: Path, options: ExtractOptions, tmp_path: Path
) -> None:
    """The trunk would end elsewhere: refused, also where no plain feature is asked for."""
    single = tmp_path / "s.fungi"
    extract(str(photos), single, replace(options, features=("kl",)))
    for store, features in (
        (both, ("kl", "simclr", f"kl@{LOW}")),
        (both, (f"kl@{LOW}",)),
        (single, (f"kl@{LOW}",)),
    ):
        before = contents(store)
        with pytest.raises(MismatchError, match="begun without") as caught:
            extract(str(photos), store, replace(options, features=features))
        assert caught.value.where == f"--target-layer {LOW}"
        assert "--feature-set" in str(caught.value.hint)
        assert contents(store) == before


@pytest.mark.slow
def test_items_get_the_features_that_the_store_has(
    photos: Path, options: ExtractOptions, tmp_path: Path
) -> None:
    """Also of one layer alone of those that were made together, cut where that was cut."""
    store = tmp_path / "s.fungi"
    kl = replace(options, features=("kl",), target_layer=(PROJ, LOW), storage_dtype="float32")
    extract(str(photos), store, kl)
    opened = Store.open(store)
    config = opened.setups.config(opened.arrays(TINY)["gradients/kl"].fingerprint)
    assert config["gradient"]["cut_at"] == LOW
    (row,) = opened.samples.rows(3, 4)
    item = NamedItem(row["id"], row["root"], row["uri"], row["id"])
    for name in ("kl", f"kl@{LOW}"):
        array = opened.arrays(TINY)[f"gradients/{name}"]
        replay = replay_extraction(
            opened, TINY, {name: array}, choice=ExtractOptions(model=TINY, device="cpu"),
            context=QUIET,
        )  # fmt: skip
        (found,) = replay.features([item], QUIET)
        assert isinstance(found, dict)
        np.testing.assert_allclose(found[name], array.read(3, 4)[0], atol=1e-5)


@pytest.mark.slow
def test_gradients_of_tokens_have_further_layers_too(
    photos: Path, options: ExtractOptions, tmp_path: Path
) -> None:
    """A grid and norms each."""
    asked = replace(options, features=("patches/kl",), target_layer=(PROJ, FC2))
    extract(str(photos), tmp_path / "s.fungi", asked)
    arrays = Store.open(tmp_path / "s.fungi").arrays(TINY)
    assert {f"patch-gradients/kl@{FC2}", f"patch-norms/kl@{FC2}"} <= arrays.keys()
    assert arrays["patch-gradients/kl"].read(0, 1).shape == (1, 2, 2, 64)


def test_options_name_the_features_of_each_layer(options: ExtractOptions) -> None:
    """Given as a tuple, or with commas as on the command line; one layer stays a name."""
    several = replace(options, target_layer=(PROJ, FC2), features=("embeddings", "kl", "dino"))
    assert several.features == ("embeddings", "kl", "dino", f"kl@{FC2}", f"dino@{FC2}")
    assert replace(several, seed=several.seed) == several
    assert ExtractOptions.from_config(several.to_config()) == several
    given: Any = {"features": ("embeddings", "kl", "dino"), "target_layer": f"{PROJ}, {FC2}"}
    assert replace(options, **given) == several
    assert replace(options, target_layer=(PROJ,)).target_layer == PROJ
    assert replace(options, target_layer=PROJ).features == options.features
    names = [f"kl@{FC2}", "simclr", f"embeddings@{FC2}", "mine", "kl", f"dino@{LOW}", "embeddings"]
    assert in_order(names)[:4] == ["embeddings", "kl", "simclr", "mine"]
    assert in_order(names)[4:] == [f"dino@{LOW}", f"embeddings@{FC2}", f"kl@{FC2}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_layer": (PROJ, FC2, FC2)}, f"found: {FC2}"),
        ({"target_layer": (PROJ, "blocks.5.mlp.fc")}, "such as blocks.5.mlp.fc"),
        ({"target_layer": (PROJ, "blocks.5.norm1")}, "--target-layer blocks.5.norm1"),
        ({"features": (f"kl@{PROJ}",)}, f"another layer than {PROJ}"),
        ({"features": (f"nothing@{FC2}",)}, f"nothing@{FC2}"),
        ({"features": (f"embeddings@{FC2}",)}, f"embeddings@{FC2}"),
    ],
)
def test_layers_that_cannot_be_are_named(
    photos: Path, options: ExtractOptions, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Twice, unknown, of another kind, or the first one once more; nothing is written."""
    with pytest.raises(UsageError) as caught:
        extract(str(photos), tmp_path / "s.fungi", replace(options, **changes))
    assert said in str(caught.value)
    assert not (tmp_path / "s.fungi").exists()


@pytest.mark.slow
def test_a_pipeline_step_has_features_of_several_layers(tiny_weights: Path) -> None:
    """Side by side, by the layers' names."""
    images = [np.full((40, 40, 3), value, np.uint8) for value in (20, 200)]
    images += [np.asarray(Image.effect_mandelbrot((40, 40), (-2, -1, 1, 1), 9).convert("RGB"))]
    step = FungiTransformer(
        TINY, image_size=32, features=("kl", "simclr"), weights=tiny_weights, device="cpu",
        settings={"target_layer": (PROJ, FC2), "simclr": {"stride_scale": 2, "negatives": 3}},
    ).fit(images)  # fmt: skip
    found = step.transform(images)
    assert found.shape == (3, 4 * 64)
    assert list(step.get_feature_names_out())[-1] == f"simclr@{FC2}_63"
    np.testing.assert_allclose(np.linalg.norm(found.reshape(3, 4, 64), axis=2), 1, atol=1e-4)


def test_each_further_layer_has_a_place_of_its_own() -> None:
    """Whatever the objective, and however many layers there are."""
    layers = TargetLayers((PROJ, FC2, LOW), LOW)
    features = ("kl", f"kl@{FC2}", f"dino@{FC2}", f"kl@{LOW}")
    assert [layers.place(feature) for feature in features] == [0, 1, 1, 2]
    assert layers.further == (FC2, LOW)
