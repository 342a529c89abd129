"""FeatureMaker: a sample's rows are its own, whatever shares its batch or its pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fungistore.backbones.families import load_backbone
from fungistore.backbones.timm_vit.encoder import TimmViT
from fungistore.errors import FungiError, UsageError
from fungistore.extraction.batches import BatchViews, DrawnGroup, stack_drawn
from fungistore.extraction.features import FeatureMaker, GradientFeature
from fungistore.gradients.class_token import ClassTokenPath
from fungistore.gradients.general import LayerPath
from fungistore.gradients.path import gradient_path, token_path
from fungistore.gradients.projection import (
    Projection,
    ProjectionSpec,
    normalized_projection,
    unit_rows,
)
from fungistore.gradients.tape import GradientPath
from fungistore.machine.context import Context
from fungistore.machine.stopwatch import Clock
from fungistore.machine.transfer import start_fetch
from fungistore.modalities.image.crops import DeviceCrops, RandomCrops
from fungistore.modalities.image.inference import InferenceView
from fungistore.modalities.image.pixels import NormalizedViews, PixelRecipe
from fungistore.modalities.requests import Windows
from fungistore.modalities.views import ViewRecipe
from fungistore.objectives.dino import DINO
from fungistore.objectives.ibot import IBOT
from fungistore.objectives.kl import KL
from fungistore.objectives.objective import Needs, ViewOutputs
from fungistore.objectives.simclr import SimCLR
from fungistore.objectives.views import recipe_of
from fungistore.randomness import Stream
from tiny_world import needs_vnni

Pixels = NDArray[np.uint8]
Batch = BatchViews
WeightsFile = Callable[[str], Path]
ALL = frozenset(["embeddings", "patches", "kl", "dino", "simclr"])
VECTORS = ["embeddings", "gradients/kl", "gradients/dino", "gradients/simclr"]
OBJECTIVES: dict[str, KL | DINO | SimCLR | IBOT] = {
    "kl": KL(),
    "dino": DINO(local_crops=3),
    "simclr": SimCLR(stride_scale=2),  # nine windows
    "ibot": IBOT(),
}
CPU = torch.device("cpu")
PathOf = Callable[[TimmViT], GradientPath]


def class_token_path(backbone: TimmViT) -> ClassTokenPath:
    """The fast path, for a model that can be cut so."""
    split = backbone.class_token_split()
    assert split is not None
    return ClassTokenPath(backbone, split)


def make(
    backbone: TimmViT,
    *,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 16,
    pool: int = 1,
    view_size: str | int = "model",
    seed: int = 0,
    path_of: PathOf | None = None,
    crops: Callable[[RandomCrops], PixelRecipe] = lambda crops: crops,
) -> FeatureMaker:
    path = path_of(backbone) if path_of else gradient_path(backbone, dtype)
    rows, columns = path.gradient_shapes[0]
    spec = ProjectionSpec("binary", backbone.token_dim, rows * columns, seed=42)
    torch.manual_seed(1)
    negatives = torch.randn(30, OBJECTIVES["simclr"].head_dim)
    gradients = {}
    for name, objective in OBJECTIVES.items():
        heads = {
            head: nn.Linear(backbone.embedding_dim, width).requires_grad_(False)
            for head, width in objective.needs.heads.items()
        } | {
            head: nn.Linear(backbone.token_dim, width).requires_grad_(False)
            for head, width in objective.needs.token_heads.items()
        }
        recipe = recipe_of(objective, backbone, view_size)
        if isinstance(recipe, NormalizedViews) and isinstance(recipe.pixels, RandomCrops):
            recipe = replace(recipe, pixels=crops(recipe.pixels))
        gradients[name] = GradientFeature(
            objective, recipe, heads, negatives if name == "simclr" else None
        )
    return FeatureMaker(
        backbone,
        path,
        Projection(spec, dtype=dtype if dtype.is_floating_point else torch.float32),
        gradients,
        pool=pool,
        batch_size=batch_size,
        seed=seed,
        device=CPU,
        token_path=token_path(backbone, path),
    )


def batch_of(maker: FeatureMaker, photos: list[Pixels], features: frozenset[str] = ALL) -> Batch:
    drawn = [maker.drawer.draw(photo, f"{i}.jpg", features) for i, photo in enumerate(photos)]
    return stack_drawn(drawn)


def part_of(batch: Batch, rows: slice | list[int]) -> Batch:
    parts = {name: tuple(one[rows] for one in group.arrays) for name, (group,) in batch.items()}
    return {
        name: (DrawnGroup(tuple(range(len(arrays[0]))), arrays),) for name, arrays in parts.items()
    }


def assert_close(
    one: Mapping[str, NDArray[np.float32]], other: Mapping[str, NDArray[np.float32]]
) -> None:
    """Equal to 1e-5: of a unit vector's length, of a norm, of an array's largest entry."""
    assert one.keys() == other.keys()
    for name, rows in one.items():
        scale = 1.0 if name.startswith("gradients/") else float(np.abs(rows).max())
        assert np.abs(rows - other[name]).max() <= 1e-5 * scale, name


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    first, second = (x.reshape(len(x), -1).astype(np.float64) for x in (one, other))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / lengths)


def tiny(weights_file: WeightsFile, name: str = "test_vit", **options: Any) -> TimmViT:
    backbone = load_backbone(name, weights=weights_file(name), **{"image_size": 64} | options)
    assert isinstance(backbone, TimmViT)
    return backbone


@pytest.fixture(scope="module", params=["class token", "layer", "average pool"])
def maker(request: pytest.FixtureRequest, weights_file: WeightsFile) -> FeatureMaker:
    """A feature maker for each gradient path, and for a model that pools by average."""
    if request.param == "average pool":
        return make(tiny(weights_file, "test_vit2"))
    path_of = class_token_path if request.param == "class token" else LayerPath
    return make(tiny(weights_file), path_of=path_of)


@pytest.fixture(scope="module")
def everything(maker: FeatureMaker, photos: list[Pixels]) -> Mapping[str, NDArray[np.float32]]:
    """All rows of three photographs."""
    return maker.compute(batch_of(maker, photos[:3]), ALL)


def test_every_feature_gives_its_arrays(maker: FeatureMaker, photos: list[Pixels]) -> None:
    """Embeddings, patch grids, unit gradients and positive norms, one float32 row a sample."""
    rows = maker.compute(batch_of(maker, photos), ALL)
    shapes = {name: array.shape for name, array in rows.items()}
    expected: dict[str, tuple[int, ...]] = {"embeddings": (6, 64), "patches": (6, 4, 4, 64)}
    for name in sorted(ALL & OBJECTIVES.keys()):
        expected |= {f"gradients/{name}": (6, 64), f"norms/{name}": (6,)}
    assert shapes == expected
    assert all(array.dtype == np.float32 for array in rows.values())
    assert all(np.isfinite(array).all() for array in rows.values())
    for name in sorted(ALL & OBJECTIVES.keys()):
        assert np.allclose(np.linalg.norm(rows[f"gradients/{name}"], axis=1), 1, atol=1e-6)
        assert (rows[f"norms/{name}"] > 0).all()
        assert cosines(rows[f"gradients/{name}"][:3], rows[f"gradients/{name}"][3:]).max() < 0.9999


def test_rows_do_not_depend_on_the_rest_of_the_batch(
    maker: FeatureMaker, photos: list[Pixels]
) -> None:
    """A batch split in any way, or shuffled, gives the same rows to 1e-5."""
    batch = batch_of(maker, photos)
    whole = maker.compute(batch, ALL)
    for cuts in ([1, 2, 3, 4, 5], [4]):
        bounds = [0, *cuts, 6]
        parts = [maker.compute(part_of(batch, slice(a, b)), ALL) for a, b in pairwise(bounds)]
        assert_close(
            {name: np.concatenate([part[name] for part in parts]) for name in whole}, whole
        )
    order = [3, 0, 5, 1, 4, 2]
    shuffled = maker.compute(part_of(batch, order), ALL)
    assert_close(shuffled, {name: rows[order] for name, rows in whole.items()})


def test_rows_are_bit_identical_when_neighbours_change(
    maker: FeatureMaker, photos: list[Pixels]
) -> None:
    """In a batch of one shape, other pixels in the other rows leave a row as it was, to the bit."""
    batch = batch_of(maker, photos)
    before = maker.compute(batch, ALL)
    other = part_of(batch, list(range(6)))
    for (group,) in other.values():
        for array in group.arrays:
            array[[0, 1, 3, 5]] = 255 - array[[1, 3, 5, 0]]
    after = maker.compute(other, ALL)
    for name in before:
        assert np.array_equal(before[name][[2, 4]], after[name][[2, 4]]), name
        assert not np.array_equal(before[name][0], after[name][0]), name


@pytest.mark.parametrize(
    "features",
    [["embeddings"], ["kl"], ["patches"], ["dino"], ["simclr"], ["dino", "kl"]],
    ids="+".join,
)
def test_rows_are_bit_identical_whatever_else_is_asked_for(
    maker: FeatureMaker,
    everything: Mapping[str, NDArray[np.float32]],
    photos: list[Pixels],
    features: list[str],
) -> None:
    """A feature extracted alone equals, to the bit, itself extracted among others."""
    asked = frozenset(features)
    some = maker.compute(batch_of(maker, photos[:3], asked), asked)
    assert {name.rpartition("/")[2] for name in some} == asked
    for name, rows in some.items():
        assert np.array_equal(rows, everything[name]), name


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_the_batch_size_changes_rounding_alone(
    weights_file: WeightsFile, photos: list[Pixels], batch_size: int
) -> None:
    """How many views run in one forward moves a row by no more than 1e-5, on either path."""
    for path_of in (class_token_path, LayerPath):
        one = make(tiny(weights_file), path_of=path_of)
        other = make(tiny(weights_file), path_of=path_of, batch_size=batch_size)
        batch = batch_of(one, photos[:3])
        assert_close(other.compute(batch, ALL), one.compute(batch, ALL))


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_masked_views_are_a_samples_own(
    weights_file: WeightsFile, photos: list[Pixels], name: str
) -> None:
    """iBOT's rows are the same, to the bit, in any order, company and chunk, and beside others."""
    wanted = frozenset(["ibot"])
    maker = make(tiny(weights_file, name))
    batch = batch_of(maker, photos[:3], wanted)
    whole = maker.compute(batch, wanted)
    norms, rows = whole["norms/ibot"], whole["gradients/ibot"]
    assert np.isfinite(rows).all()
    assert (norms > 0).all()
    assert cosines(rows[:1], rows[1:2]).max() < 0.999
    order = [2, 0, 1]
    shuffled = maker.compute(part_of(batch, order), wanted)
    assert np.array_equal(shuffled["gradients/ibot"], rows[order])
    alone = maker.compute(part_of(batch, [1]), wanted)
    assert np.array_equal(alone["gradients/ibot"], rows[1:2])
    beside = frozenset(["ibot", "embeddings", "patches", "kl"])
    among = maker.compute(batch_of(maker, photos[:3], beside), beside)
    assert np.array_equal(among["gradients/ibot"], rows)
    chunks = make(tiny(weights_file, name), batch_size=1).compute(batch, wanted)
    assert_close(chunks, whole)


def test_both_gradient_paths_give_the_same_features(
    weights_file: WeightsFile, photos: list[Pixels]
) -> None:
    """The fast path's features equal the general path's, for a class-token model, to 1e-5."""
    fast = make(tiny(weights_file), path_of=class_token_path)
    general = make(tiny(weights_file), path_of=LayerPath)
    batch = batch_of(fast, photos[:3])
    assert_close(fast.compute(batch, ALL), general.compute(batch, ALL))


def test_embeddings_and_patches_are_timms(weights_file: WeightsFile, photos: list[Pixels]) -> None:
    """Embeddings are the model's output, patch tensors its normalised patch tokens as a grid."""
    for name in ("test_vit", "test_vit2", "deit_tiny_patch16_224"):
        maker = make(tiny(weights_file, name))
        rows = maker.compute(
            batch_of(maker, photos, frozenset(["embeddings", "patches"])),
            frozenset(["embeddings", "patches"]),
        )
        backbone = tiny(weights_file, name)
        view = InferenceView(backbone.data_config)
        pixels = (
            torch.from_numpy(np.stack([view.draw(photo, Stream(0))[0] for photo in photos])).float()
            / 255
        )
        mean, std = (torch.tensor(backbone.data_config[k]).view(3, 1, 1) for k in ("mean", "std"))
        tokens = backbone.module.forward_features((pixels - mean) / std)
        expected = {
            "embeddings": backbone.module.forward_head(tokens).numpy(),
            "patches": tokens[:, backbone.prefix_tokens :].unflatten(1, (4, 4)).numpy(),
        }
        assert_close(rows, expected)


def test_gradient_features_are_autograds(weights_file: WeightsFile, photos: list[Pixels]) -> None:
    """A KL feature is the projection of loss.backward()'s gradient, weight and bias together."""
    maker = make(tiny(weights_file))
    rows = maker.compute(batch_of(maker, photos, frozenset(["kl"])), frozenset(["kl"]))
    backbone = tiny(weights_file)
    torch.manual_seed(1)
    torch.randn(30, 96)
    head = nn.Linear(64, 768).requires_grad_(False)
    mean, std = (torch.tensor(backbone.data_config[k]).view(3, 1, 1) for k in ("mean", "std"))
    view = InferenceView(backbone.data_config)
    target = backbone.target.requires_grad_(True)
    gradients = []
    for photo in photos:
        target.zero_grad()
        pixels = (torch.from_numpy(view.draw(photo, Stream(0))[0]).float() / 255 - mean) / std
        embedding = backbone.module(pixels[None])[None]
        KL().losses(ViewOutputs(embedding), {"projection": head}).sum().backward()
        assert target.weight.grad is not None
        assert target.bias.grad is not None
        gradients.append(torch.cat([target.weight.grad, target.bias.grad[:, None]], dim=1))
    projection = Projection(ProjectionSpec("binary", 64, 64 * 65, seed=42))
    unit, norm = normalized_projection(unit_rows(torch.stack(gradients)), projection)
    assert_close(rows, {"gradients/kl": unit.numpy(), "norms/kl": norm.numpy()})


@pytest.mark.parametrize("pool", [2, 4])
def test_pooled_patches_are_averages_of_cells(
    weights_file: WeightsFile, photos: list[Pixels], pool: int
) -> None:
    """pool=2 equals avg_pool2d of the unpooled grid, and pool=4 here the mean of all patches."""
    only = frozenset(["patches"])
    plain, pooled = make(tiny(weights_file)), make(tiny(weights_file), pool=pool)
    batch = batch_of(plain, photos, only)
    grid = torch.from_numpy(plain.compute(batch, only)["patches"])
    expected = nn.functional.avg_pool2d(grid.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)
    found = pooled.compute(batch, only)["patches"]
    assert found.shape == (6, 4 // pool, 4 // pool, 64)
    assert np.allclose(found, expected.numpy(), atol=1e-6)
    if pool == 4:
        assert np.allclose(found[:, 0, 0], grid.mean(dim=(1, 2)).numpy(), atol=1e-5)


def test_latents_are_one_row_a_view(maker: FeatureMaker, photos: list[Pixels]) -> None:
    """Negatives are encoded as [images, views, head width], each the same in any batch."""
    batch = batch_of(maker, photos, frozenset(["simclr"]))
    latents = maker.latents(batch, "simclr")
    assert latents.shape == (6, 9, 96)
    assert latents.dtype == np.float32
    alone = np.concatenate([maker.latents(part_of(batch, [i]), "simclr") for i in range(6)])
    assert np.abs(latents - alone).max() < 1e-5 * np.abs(latents).max()


def test_draws_follow_from_the_sample_and_the_seed(
    weights_file: WeightsFile, photos: list[Pixels]
) -> None:
    """A sample's crops depend on its id and the seed, not on what is drawn before or beside it."""
    maker = make(tiny(weights_file))
    alone = maker.drawer.draw(photos[0], "a.jpg", frozenset(["dino"]))
    maker.drawer.draw(photos[1], "b.jpg", ALL)
    among = maker.drawer.draw(photos[0], "a.jpg", ALL)
    assert sorted(alone) == ["dino"]
    assert sorted(among) == ["dino", "embeddings", "simclr"]
    for one, other in zip(alone["dino"], among["dino"], strict=True):
        assert np.array_equal(one, other)
    renamed = maker.drawer.draw(photos[0], "b.jpg", frozenset(["dino"]))
    reseeded = make(tiny(weights_file), seed=1).drawer.draw(photos[0], "a.jpg", frozenset(["dino"]))
    assert not np.array_equal(alone["dino"][0], renamed["dino"][0])
    assert not np.array_equal(alone["dino"][0], reseeded["dino"][0])


def test_forwards_are_counted(weights_file: WeightsFile) -> None:
    """Embeddings, patches and KL share one forward; other objectives add one a view."""
    maker = make(tiny(weights_file))
    assert maker.forwards(frozenset(["embeddings"])) == 1
    assert maker.forwards(frozenset(["embeddings", "patches", "kl"])) == 1
    assert maker.forwards(frozenset(["dino"])) == 5
    assert maker.forwards(ALL) == 1 + 5 + 9
    assert maker.forwards(frozenset(["ibot", "kl"])) == 1 + 4


def test_views_of_native_size_give_features_as_well(
    weights_file: WeightsFile, photos: list[Pixels]
) -> None:
    """Smaller views run through the same model, and their rows do not depend on the batch."""
    maker = make(tiny(weights_file, view_size="native"), view_size="native")
    batch = batch_of(maker, photos[:3])
    (dino,) = batch["dino"]
    assert dino.arrays[1].shape[-1] == 32
    whole = maker.compute(batch, ALL)
    parts = [maker.compute(part_of(batch, [i]), ALL) for i in range(3)]
    assert_close({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.int8, marks=needs_vnni)], ids=str
)
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "test_vit2"])
def test_a_trunk_of_low_precision_keeps_the_features(
    name: str,
    dtype: torch.dtype,
    weights_file: WeightsFile,
    photos: list[Pixels],
) -> None:
    """With the trunk in bfloat16 or int8, embeddings and gradients stay close to float32's."""
    exact = make(tiny(weights_file, name, image_size=96))
    fast = make(tiny(weights_file, name, image_size=96), dtype=dtype)
    batch = batch_of(exact, photos[:2])
    one, other = exact.compute(batch, ALL), fast.compute(batch, ALL)
    least = {key: float(cosines(one[key], other[key]).min()) for key in [*VECTORS, "patches"]}
    print(name, dtype, least)  # shown by `pytest -rA`
    for array in ("embeddings", "patches"):
        assert 0.999 < least[array] < 1 - 1e-9
    for feature in sorted(ALL & OBJECTIVES.keys()):
        assert least[f"gradients/{feature}"] > 0.99, feature
        ratio = other[f"norms/{feature}"] / one[f"norms/{feature}"]
        assert np.abs(ratio - 1).max() < 0.1
    for key, rows in other.items():
        assert rows.dtype == np.float32, key


def test_crops_resized_on_the_device_give_the_same_features(
    weights_file: WeightsFile, photos: list[Pixels]
) -> None:
    """A batch of photographs of several shapes, sent whole or as views, in parts and chunks."""
    loader = make(tiny(weights_file))
    device = make(tiny(weights_file), crops=DeviceCrops)
    dino = frozenset(["dino"])
    small = [photo[::4, ::4] for photo in photos]  # few enough pixels to travel whole
    ours = device.compute(batch_of(device, [*photos, *small], dino), dino)
    expected = loader.compute(batch_of(loader, [*photos, *small], dino), dino)
    least = cosines(ours["gradients/dino"], expected["gradients/dino"]).min()
    assert 0.999 < least < 1 - 1e-9


@needs_vnni
def test_int8_rows_do_not_depend_on_the_batch(
    weights_file: WeightsFile, photos: list[Pixels]
) -> None:
    """A token has a scale of its own, so an image's features are the same in any company."""
    maker = make(tiny(weights_file), dtype=torch.int8)
    batch = batch_of(maker, photos[:3])
    whole = maker.compute(batch, ALL)
    parts = [maker.compute(part_of(batch, [i]), ALL) for i in range(3)]
    assert_close({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


def test_another_codes_precision_changes_nothing(
    weights_file: WeightsFile, photos: list[Pixels]
) -> None:
    """Where the process around lets torch multiply float32 coarsely, features stay what they are.

    Its own choice is there again afterwards.
    """
    maker = make(tiny(weights_file))
    batch = batch_of(maker, photos[:2])
    expected = maker.compute(batch, ALL)
    torch.set_float32_matmul_precision("medium")
    try:
        found = maker.compute(batch, ALL)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
    for name, rows in expected.items():
        assert np.array_equal(found[name], rows), name


@pytest.mark.parametrize(
    "features", ["embeddings patches kl", "dino", pytest.param("ibot", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("dtype", "path_of"),
    [
        (torch.float32, None),
        pytest.param(torch.bfloat16, None, marks=pytest.mark.slow),
        pytest.param(torch.int8, None, marks=[pytest.mark.slow, needs_vnni]),
        pytest.param(torch.float32, LayerPath, marks=pytest.mark.slow),
    ],
)
def test_neither_threads_nor_company_change_a_bit(
    weights_file: WeightsFile,
    photos: list[Pixels],
    features: str,
    dtype: torch.dtype,
    path_of: PathOf | None,
) -> None:
    """At the size that users have, on one thread or three, alone or in a batch.

    So a process that has fewer cores continues what another began, and what was extracted one by
    one is what was extracted together. Products of tiny models are too small to show it.
    """
    wanted = frozenset(features.split())
    backbone = tiny(weights_file, "vit_small_patch14_dinov2", image_size=224)
    maker = make(backbone, dtype=dtype, path_of=path_of)
    batch = batch_of(maker, photos[:5] if "kl" in wanted else photos[:2], wanted)
    expected = maker.compute(batch, wanted)
    torch.set_num_threads(3)
    try:
        found = maker.compute(batch, wanted)
        alone = maker.compute(part_of(batch, [1]), wanted)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    for name, rows in expected.items():
        assert np.array_equal(found[name], rows), name
        assert np.array_equal(alone[name], rows[1:2]), name


@pytest.mark.parametrize("threads", [1, 3])
def test_the_callers_modes_change_nothing(
    weights_file: WeightsFile, photos: list[Pixels], threads: int
) -> None:
    """Neither autocast nor inference mode, in which there would be no gradients."""
    maker = make(tiny(weights_file))
    wanted = frozenset(["embeddings", "kl"])
    batch = batch_of(maker, photos[:2], wanted)
    expected = maker.compute(batch, wanted)
    torch.set_num_threads(threads)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            found = maker.compute(batch, wanted)
    finally:
        torch.set_num_threads(1)
    for name, rows in expected.items():
        assert np.array_equal(found[name], rows), name


class _Notes:
    """An encoder that is not safe in threads: it notes who runs it."""

    is_thread_safe = False

    def __init__(self, encoder: TimmViT) -> None:
        self._encoder = encoder
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def run(self, inputs: Any) -> Any:
        self.threads.add(threading.get_ident())
        return self._encoder.run(inputs)


def test_an_encoder_that_keeps_notes_runs_in_one_thread(
    weights_file: WeightsFile, photos: list[Pixels]
) -> None:
    """With three threads of torch, too; the features are the same."""
    plain = make(tiny(weights_file), path_of=LayerPath)
    notes: Any = _Notes(tiny(weights_file))
    maker = make(notes, path_of=LayerPath)
    batch = batch_of(plain, photos)
    expected = plain.compute(batch, ALL)
    torch.set_num_threads(3)
    try:
        found = maker.compute(batch, ALL)
    finally:
        torch.set_num_threads(1)
    assert notes.threads == {threading.get_ident()}
    for name, rows in expected.items():
        assert np.array_equal(found[name], rows), name


def test_a_full_gpu_is_explained(weights_file: WeightsFile, photos: list[Pixels]) -> None:
    """What torch says, and a smaller batch to try; raised here by a hook, for want of a GPU."""

    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it.")

    backbone = tiny(weights_file)
    maker = make(backbone, batch_size=16)
    batch = batch_of(maker, photos[:1])
    backbone.module.blocks[0].register_forward_pre_hook(fill)
    with pytest.raises(FungiError, match=r"(?s)memory.*2 GiB\.\n.*--batch-size 8"):
        maker.compute(batch, ALL)
    with pytest.raises(FungiError, match="memory"):
        maker.latents(batch, "simclr")


def test_a_clock_charges_every_stage(weights_file: WeightsFile, photos: list[Pixels]) -> None:
    """The stages of a launch add up to nearly all of its time, and none is left out."""
    maker = make(tiny(weights_file))
    batch = batch_of(maker, photos)
    clock = Clock()
    began = time.perf_counter()
    rows = start_fetch(maker.launch(batch, ALL, Context(watch=clock)))()
    elapsed = time.perf_counter() - began
    seconds = {time.stage: time.seconds for time in clock.times()}
    assert all(seconds[stage] > 0 for stage in ("views", "trunk", "tail", "projection"))
    assert seconds["decode"] == seconds["write"] == 0
    assert 0.5 * elapsed < sum(seconds.values()) <= elapsed
    for name, expected in maker.compute(batch, ALL).items():
        assert np.array_equal(rows[name], expected), name


@pytest.mark.slow
@pytest.mark.parametrize("path_of", [class_token_path, LayerPath])
def test_a_compiled_trunk_gives_the_same_features(
    path_of: PathOf,
    weights_file: WeightsFile,
    photos: list[Pixels],
) -> None:
    """`--compile` changes the last bits only."""
    batch = batch_of(make(tiny(weights_file)), photos[:4])
    backbone = tiny(weights_file)
    backbone.prepare_trunk(torch.float32, compiled=True)
    compiled = make(backbone, path_of=path_of)
    kinds = [block._compiled_call_impl is None for block in backbone.module.blocks]
    assert kinds == [False] * (len(kinds) - 1) + [True]
    assert_close(compiled.compute(batch, ALL), make(tiny(weights_file)).compute(batch, ALL))


class OwnWindows:
    """A request that makes its own views, and notes what for."""

    def recipe(self, encoder: TimmViT, view_size: str | int) -> ViewRecipe:
        self.asked = (encoder, view_size)
        self.made = recipe_of(SimCLR(), encoder, "model")
        assert self.made is not None
        return self.made


class Asking(KL):
    """KL, but for views of another kind."""

    views: ClassVar[object] = None

    @property
    def needs(self) -> Needs:
        return replace(super().needs, views=self.views)


def test_views_are_the_objectives_own_or_the_modalitys(weights_file: WeightsFile) -> None:
    """Or none; a request that the modality has no views for is refused, with the request."""
    backbone, objective = tiny(weights_file), Asking()
    assert recipe_of(objective, backbone, "model") is None
    Asking.views = own = OwnWindows()
    assert recipe_of(objective, backbone, 32) is own.made
    assert own.asked == (backbone, 32)
    Asking.views = "a request of a plug-in"
    with pytest.raises(UsageError, match="kl has no views of images") as caught:
        recipe_of(objective, backbone, "model")
    assert caught.value.found == "a request of a plug-in"
    Asking.views = Windows(4, 2)
    windows = recipe_of(objective, backbone, "native")
    assert windows is not None
    assert [group.count for group in windows.groups] == [9]
    native, model = (recipe_of(objective, backbone, size).groups for size in ("native", "model"))
    assert native != model
