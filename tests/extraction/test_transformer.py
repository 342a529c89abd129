"""FUNGI features as a step of a scikit-learn pipeline, bit for bit those of a store."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

import fungistore as fungi
from fungistore.errors import ImageError, UsageError
from fungistore.store.listing import add_source
from tiny_world import TINY

EVERYTHING = ("embeddings", "kl", "simclr")
FEW: dict[str, Any] = {"projection_dim": 16}


def transformer(weights: Path, **more: Any) -> fungi.FungiTransformer:
    return fungi.FungiTransformer(
        TINY, weights=weights, device="cpu", batch_size=8, **{"settings": FEW} | more
    )


@pytest.fixture
def paths(images: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of images, relative to the folder that one is in."""
    monkeypatch.chdir(images)
    return sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))[::6]


def test_the_features_are_those_of_a_store(
    paths: list[str], tiny_weights: Path, tmp_path: Path
) -> None:
    """Of the same ids, to the bit: normalised blocks side by side, with the same negatives."""
    Path("m.csv").write_text("path\n" + "\n".join(paths) + "\n")
    few = FEW | {"objectives": {"simclr": {"negatives": 4}}}
    options = fungi.ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        features=EVERYTHING,
        device="cpu",
        batch_size=8,
        **few,
    )
    fungi.extract("m.csv", tmp_path / "s.fungi", options)
    stored = np.asarray(fungi.open_features(tmp_path / "s.fungi"))
    step = transformer(tiny_weights, features=EVERYTHING[::-1], settings=few).fit(paths)
    found = step.transform(paths)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored)
    np.testing.assert_array_equal(step.transform([f"./{paths[3]}"]), stored[[3]])  # no company
    names = step.get_feature_names_out()
    assert len(names) == found.shape[1]
    assert [names[0], names[64], names[-1]] == ["embeddings_0", "kl_0", "simclr_15"]
    copy = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(copy.transform(paths[:2]), found[:2])


def test_images_in_memory_are_their_pixels(paths: list[str], tiny_weights: Path) -> None:
    """Files, PIL images and arrays of the same pixels have the same embeddings."""
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in opened]
    step = transformer(tiny_weights).fit(opened)
    by_image, by_array = step.transform(opened), step.transform(arrays)
    np.testing.assert_array_equal(by_image, by_array)
    np.testing.assert_array_equal(by_array[:, :64], step.transform(list(map(Path, paths)))[:, :64])
    grey = np.stack([np.asarray(image.convert("L").resize((40, 40))) for image in opened])
    assert step.transform(grey).shape == by_image.shape
    assert step.transform([]).shape == (0, by_image.shape[1])


def test_a_frames_paths_are_images(paths: list[str], tiny_weights: Path, tmp_path: Path) -> None:
    """Those of a store of tar files too, which are places in them."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in paths:
            tar.add(path)
    place = tmp_path / "s.fungi"
    add_source(fungi.Store.open_or_create(place), fungi.open_source(tmp_path / "a.tar"))
    step = transformer(tiny_weights, features=["embeddings"]).fit(paths)
    found = step.transform(fungi.Store.open(place).to_pandas()["path"])
    np.testing.assert_array_equal(found, step.transform(paths))


def test_it_is_a_step_of_a_pipeline(paths: list[str], tiny_weights: Path) -> None:
    """With a PCA and a classifier; its clone has its parameters and nothing else."""
    labels = [path.partition("/")[0] for path in paths]
    step = transformer(tiny_weights, features=["embeddings"])
    model = make_pipeline(step, PCA(3), LogisticRegression()).fit(paths, labels)
    assert model.predict(paths).shape == (len(paths),)
    fresh = clone(model[0])
    assert fresh.get_params() == step.get_params()
    with pytest.raises(NotFittedError):
        fresh.transform(paths)


@pytest.mark.parametrize(
    "check",
    [
        check_get_params_invariance,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
    ],
)
def test_it_keeps_the_conventions_of_estimators(check: Any) -> None:
    """Those of scikit-learn's own checks that need no numbers for images."""
    check("FungiTransformer", fungi.FungiTransformer())


def test_what_cannot_be_used_is_said(paths: list[str], tiny_weights: Path, tmp_path: Path) -> None:
    """Settings at fit, images with their index."""
    for settings in ({"features": ["nothing"]}, {"image_size": -1}, {"settings": {"seed": 1}}):
        with pytest.raises(UsageError):
            transformer(tiny_weights, **settings).fit(paths)
    for features in ("embeddings", ["patches"]):
        with pytest.raises(UsageError):
            transformer(tiny_weights, features=features).fit(paths)
    step = transformer(tiny_weights, features=["embeddings"]).fit(paths)
    picture = Image.new("RGB", (9, 9))
    for one in (paths[0], Path(paths[0]), np.zeros((9, 9, 3), np.uint8), picture, None):
        with pytest.raises(UsageError):
            step.transform(one)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for image in (tmp_path / "broken.jpg", "gone.jpg", np.zeros((9, 9)), None):
        with pytest.raises(ImageError) as refused:
            step.transform([*paths[:2], image])
        assert str(refused.value.where).startswith("image 2 of 3")
