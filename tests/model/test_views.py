"""Views against torchvision's and timm's own transforms, and against windows cut one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PILImage
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv

from fungistore.errors import UsageError
from fungistore.modalities.image.crops import (
    ATTEMPTS,
    DeviceCrops,
    RandomCrops,
    SizedFamily,
    crop_boxes,
)
from fungistore.modalities.image.inference import InferenceView, centre_of
from fungistore.modalities.image.patchify import Patchify
from fungistore.modalities.image.pixels import NormalizedViews, PixelRecipe
from fungistore.modalities.image.recipes import IMAGENET, image_recipe, side_for
from fungistore.modalities.image.resample import resized_crops
from fungistore.modalities.requests import Crops
from fungistore.modalities.views import FirstViews, ViewGroup, count_views, filled_up, in_chunks
from fungistore.objectives.dino import DINO
from fungistore.objectives.kl import KL
from fungistore.objectives.simclr import SimCLR
from fungistore.randomness import Stream

Pixels = NDArray[np.uint8]
PAPER_CROPS = RandomCrops((SizedFamily(2, 224, (0.25, 1.0)), SizedFamily(10, 224, (0.05, 0.25))))
PAPER_WINDOWS = Patchify(image_size=224, base_patches=4, stride_scale=6, view_size=224)
SHAPES = st.tuples(st.integers(1, 700), st.integers(1, 700))
RATIO = (3 / 4, 4 / 3)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def render_all(recipe: PixelRecipe, drawn: tuple[Pixels, ...]) -> list[Tensor]:
    batch = tuple(torch.from_numpy(array)[None] for array in drawn)
    return [
        recipe.render(batch, group, slice(0, views.count))[0]
        for group, views in enumerate(recipe.groups)
    ]


@dataclass(frozen=True)
class Taker:
    """What views need to know of an encoder."""

    image_size: int
    patch_size: int
    statistics: Any = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def pixels_of(
    objective: DINO | SimCLR, image_size: int, patch_size: int, view_size: str | int
) -> PixelRecipe:
    recipe = image_recipe(objective.needs.views, Taker(image_size, patch_size), view_size)
    assert isinstance(recipe, NormalizedViews)
    return recipe.pixels


def torchvision_box(height: int, width: int, scale: tuple[float, float], draws: Any) -> list[int]:
    """RandomResizedCrop.get_params line by line, with the random numbers handed in."""
    for area_draw, aspect_draw, top_draw, left_draw in draws.T.tolist():
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        aspect = math.exp(low + (high - low) * aspect_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(top_draw * (height - h + 1)), int(left_draw * (width - w + 1))
            return [left, top, left + w, top + h]
    return torchvision_fallback(height, width)


def torchvision_fallback(height: int, width: int) -> list[int]:
    """torchvision's own centred box: an area of 50 images never fits, so its attempts all fail."""
    blank = PILImage.new("L", (width, height))
    top, left, h, w = RandomResizedCrop.get_params(blank, [50.0, 50.0], list(RATIO))
    return [left, top, left + w, top + h]


def test_random_crops_are_torchvisions_resized_crops(photos: list[Pixels]) -> None:
    """Given the boxes, every crop equals torchvision's bicubic resized_crop, bit for bit."""
    recipe = RandomCrops((SizedFamily(2, 96, (0.25, 1.0)), SizedFamily(10, 48, (0.05, 0.25))))
    for number, photo in enumerate([*photos, noise(1, 1), noise(3, 200), noise(90, 20)]):
        drawn = recipe.draw(photo, Stream(0, "crops", str(number)))
        stream = Stream(0, "crops", str(number))
        for family, crops in zip(recipe.families, drawn, strict=True):
            assert crops.shape == (family.count, 3, family.size, family.size)
            assert crops.dtype == np.uint8
            boxes = crop_boxes(photo.shape[0], photo.shape[1], family, stream)
            for (left, top, right, bottom), crop in zip(boxes.tolist(), crops, strict=True):
                expected = tv.resized_crop(
                    PILImage.fromarray(photo),
                    top,
                    left,
                    bottom - top,
                    right - left,
                    [family.size, family.size],
                    InterpolationMode.BICUBIC,
                    antialias=True,
                )
                assert np.array_equal(crop, np.asarray(expected).transpose(2, 0, 1))


def test_random_crops_are_rendered_as_pixels_over_255(photos: list[Pixels]) -> None:
    """Rendering changes nothing but the type and the range."""
    recipe = RandomCrops((SizedFamily(2, 32, (0.25, 1.0)), SizedFamily(3, 16, (0.05, 0.25))))
    drawn = recipe.draw(photos[0], Stream(0, "crops"))
    for pixels, views in zip(drawn, render_all(recipe, drawn), strict=True):
        assert views.dtype == torch.float32
        assert np.array_equal(views.numpy(), pixels.astype(np.float32) / 255)


@given(
    shape=SHAPES,
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([(0.25, 1.0), (0.05, 0.25), (0.9, 1.0), (0.001, 0.01), (1.0, 1.0)]),
)
@example(shape=(1, 1), seed=0, scale=(0.05, 0.25))
@example(shape=(1, 600), seed=0, scale=(0.25, 1.0))
@example(shape=(600, 1), seed=0, scale=(0.25, 1.0))
@example(shape=(2, 20_000), seed=1, scale=(0.05, 0.25))
@settings(max_examples=200, deadline=None)
def test_crop_boxes_are_torchvisions_for_the_same_random_numbers(
    shape: tuple[int, int], seed: int, scale: tuple[float, float]
) -> None:
    """A box is RandomResizedCrop's for any image: the first attempt that fits, or its fallback."""
    family = SizedFamily(6, 32, scale)
    boxes = crop_boxes(*shape, family, Stream(seed, "boxes"))
    draws = Stream(seed, "boxes").uniform(4, family.count, ATTEMPTS)
    expected = [torchvision_box(*shape, scale, draws[:, crop]) for crop in range(family.count)]
    assert boxes.tolist() == expected


@given(
    shape=SHAPES,
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([(0.25, 1.0), (0.05, 0.25), (0.001, 0.01)]),
)
@example(shape=(1, 1), seed=0, scale=(0.05, 0.25))
@settings(max_examples=200, deadline=None)
def test_crop_boxes_keep_to_the_area_and_aspect_that_were_asked_for(
    shape: tuple[int, int], seed: int, scale: tuple[float, float]
) -> None:
    """A box lies in the image, and has an allowed area and aspect up to rounding, or is centred."""
    height, width = shape
    for left, top, right, bottom in crop_boxes(
        height, width, SizedFamily(6, 32, scale), Stream(seed, "boxes")
    ).tolist():
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if [left, top, right, bottom] == torchvision_fallback(height, width):
            continue
        w, h = right - left, bottom - top
        assert (w - 0.5) * (h - 0.5) <= scale[1] * height * width * (1 + 1e-9)
        assert (w + 0.5) * (h + 0.5) >= scale[0] * height * width * (1 - 1e-9)
        assert (w - 0.5) / (h + 0.5) <= RATIO[1] + 1e-9
        assert (w + 0.5) / (h - 0.5) >= RATIO[0] - 1e-9


@given(shape=SHAPES)
@example(shape=(1, 1))
@example(shape=(1, 10_000))
@example(shape=(10_000, 1))
@example(shape=(3, 4))
@example(shape=(4, 3))
@settings(max_examples=200, deadline=None)
def test_the_fallback_box_is_torchvisions(shape: tuple[int, int]) -> None:
    """Where no attempt fits, the box is torchvision's largest centred one of an allowed aspect."""
    boxes = crop_boxes(*shape, SizedFamily(2, 32, (50.0, 50.0)), Stream(0, "boxes"))
    assert boxes.tolist() == [torchvision_fallback(*shape)] * 2


def test_crop_boxes_are_distributed_as_torchvisions() -> None:
    """Areas, aspects and positions have torchvision's distributions (Kolmogorov-Smirnov)."""
    count = 3000
    ours = crop_boxes(300, 400, SizedFamily(count, 32, (0.05, 0.25)), Stream(0, "boxes"))
    torch.manual_seed(0)
    blank = PILImage.new("L", (400, 300))
    rows = [RandomResizedCrop.get_params(blank, [0.05, 0.25], list(RATIO)) for _ in range(count)]
    theirs = np.array([[left, top, left + w, top + h] for top, left, h, w in rows])

    def statistics(boxes: NDArray[Any]) -> list[NDArray[Any]]:
        left, top, right, bottom = boxes.T
        w, h = right - left, bottom - top
        return [w * h, w / h, left / (401 - w), top / (301 - h)]

    for one, other in zip(statistics(ours), statistics(theirs), strict=True):
        points = np.sort(np.concatenate([one, other]))
        cdfs = [np.searchsorted(np.sort(x), points, side="right") / count for x in (one, other)]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 1.95 * math.sqrt(2 / count)  # p = 0.001


@given(shape=SHAPES)
@example(shape=(1, 1))
@example(shape=(1, 700))
@settings(max_examples=25, deadline=None)
def test_crops_use_the_same_count_of_random_numbers_for_every_image(
    shape: tuple[int, int],
) -> None:
    """Twelve crops use 4 numbers for each of 10 attempts, whatever fits."""
    recipe = RandomCrops((SizedFamily(2, 8, (0.25, 1.0)), SizedFamily(10, 8, (0.05, 0.25))))
    used, skipped = Stream(0, "crops"), Stream(0, "crops")
    recipe.draw(noise(*shape), used)
    skipped.words(4 * 10 * 12)
    assert np.array_equal(used.words(4), skipped.words(4))


def test_crops_do_not_depend_on_what_was_drawn_before(photos: list[Pixels]) -> None:
    """Each image's crops follow from its own stream, in any order of the images."""
    recipe = RandomCrops((SizedFamily(2, 32, (0.25, 1.0)), SizedFamily(4, 16, (0.05, 0.25))))
    order = list(range(len(photos)))
    runs = [
        {i: recipe.draw(photos[i], Stream(0, "views", "dino", str(i))) for i in sequence}
        for sequence in (order, order[::-1])
    ]
    for i in order:
        for one, other in zip(runs[0][i], runs[1][i], strict=True):
            assert np.array_equal(one, other)
    again = recipe.draw(photos[0], Stream(1, "views", "dino", "0"))
    assert not np.array_equal(again[0], runs[0][0][0])


def test_dinos_views_are_the_papers() -> None:
    """Two global and ten local crops, all at the model's size; global ones come first."""
    assert pixels_of(DINO(), 224, 16, "model") == PAPER_CROPS
    native = pixels_of(DINO(), 224, 14, "native")
    assert [(group.count, group.size) for group in native.groups] == [(2, 182), (10, 84)]
    assert KL().needs.views is None


def test_dino_can_do_without_local_crops() -> None:
    """With local_crops=0, which the options accept, only the global crops are drawn."""
    recipe = pixels_of(DINO(local_crops=0), 32, 16, "model")
    drawn = recipe.draw(noise(40, 50), Stream(0, "crops"))
    assert sum(len(crops) for crops in drawn) == 2


def windows_one_by_one(
    square: NDArray[np.uint8], window: int, stride: int, view_size: int
) -> Tensor:
    """Cut with two loops, and resize each window by itself with torchvision."""
    pixels = torch.from_numpy(square).float() / 255
    views = []
    for top in range(0, square.shape[1] - window + 1, stride):
        for left in range(0, square.shape[2] - window + 1, stride):
            cut = pixels[:, top : top + window, left : left + window]
            size = [view_size, view_size]
            views.append(tv.resize(cut, size, InterpolationMode.BICUBIC, antialias=True))
    return torch.stack(views)


@pytest.mark.parametrize(
    ("recipe", "window", "stride", "count"),
    [
        (PAPER_WINDOWS, 112, 18, 49),
        (Patchify(224, 4, 4, 64), 112, 28, 25),  # the reference script's default stride scale
        (Patchify(224, 16, 6, 56), 56, 9, 361),
        (Patchify(224, 4, 6, 112), 112, 18, 49),  # native size: not resized
        (Patchify(64, 4, 1, 32), 32, 32, 4),
        (Patchify(518, 4, 6, 70), 259, 43, 49),
        (Patchify(16, 4, 100, 8), 8, 1, 81),  # the stride is at least a pixel
    ],
)
def test_patchify_equals_windows_cut_one_by_one(
    photos: list[Pixels], recipe: Patchify, window: int, stride: int, count: int
) -> None:
    """Windows are cut row by row and resized as torchvision resizes a float tensor, not clamped."""
    assert (recipe.window, recipe.stride, count_views(recipe)) == (window, stride, count)
    drawn = recipe.draw(photos[2], Stream(0, "unused"))
    (views,) = render_all(recipe, drawn)
    assert views.shape == (count, 3, recipe.view_size, recipe.view_size)
    expected = windows_one_by_one(drawn[0], window, stride, recipe.view_size)
    assert float((views - expected).abs().max()) < 1e-6


def test_patchify_squashes_the_image_as_torchvision_does(photos: list[Pixels]) -> None:
    """The image is first resized to the square by Pillow, bicubic, without keeping its aspect."""
    for photo in [*photos, noise(1, 1), noise(1, 50)]:
        (square,) = PAPER_WINDOWS.draw(photo, Stream(0, "unused"))
        resized = tv.resize(PILImage.fromarray(photo), [224, 224], InterpolationMode.BICUBIC)
        assert square.dtype == np.uint8
        assert np.array_equal(square, np.asarray(resized).transpose(2, 0, 1))


def test_patchify_leaves_the_last_four_pixels_uncovered() -> None:
    """The paper's 49 windows of 112 pixels, 18 apart, end at 220, in row-major order."""
    columns = np.broadcast_to(np.arange(224, dtype=np.uint8), (3, 224, 224)).copy()
    native = Patchify(224, 4, 6, 112)
    (views,) = render_all(native, (columns,))
    seen = (views * 255).round()
    assert float(seen.max()) == 219
    assert [float(view.min()) for view in seen] == [18.0 * (i % 7) for i in range(49)]
    (views,) = render_all(native, (columns.transpose(0, 2, 1).copy(),))
    seen = (views * 255).round()
    assert [float(view.min()) for view in seen] == [18.0 * (i // 7) for i in range(49)]


def test_patchify_overshoots_rather_than_clamps() -> None:
    """Bicubic resizing of a hard edge leaves [0, 1] a little, as in the reference code."""
    edge = np.zeros((3, 224, 224), dtype=np.uint8)
    edge[:, :, 100:] = 255
    (views,) = render_all(PAPER_WINDOWS, (edge,))
    assert float(views.min()) < -0.01
    assert float(views.max()) > 1.01


def test_patchify_uses_no_random_numbers() -> None:
    """The stream is left where it was."""
    stream = Stream(0, "windows")
    PAPER_WINDOWS.draw(noise(30, 40), stream)
    assert np.array_equal(stream.words(4), Stream(0, "windows").words(4))


def test_simclrs_views_are_the_papers() -> None:
    """49 windows at the model's size; at native size each keeps its own pixels."""
    assert pixels_of(SimCLR(), 224, 16, "model") == PAPER_WINDOWS
    assert pixels_of(SimCLR(), 224, 16, "native") == Patchify(224, 4, 6, 112)
    assert pixels_of(SimCLR(base_patches=16), 224, 14, "native") == Patchify(224, 16, 6, 56)


@pytest.mark.parametrize(
    ("view_size", "model_size", "patch_size", "extent", "side"),
    [
        ("model", 224, 16, 0.5, 224),
        ("model", 518, 14, 0.25, 518),
        ("native", 224, 16, 0.5, 112),
        ("native", 224, 14, 0.5, 112),
        ("native", 224, 16, 1.0, 224),
        ("native", 518, 14, 0.5, 252),  # 18.5 patches: ties go to the even number
        ("native", 384, 16, 0.25**0.5, 192),
        ("native", 32, 16, 0.1, 16),  # never less than one patch
        (96, 224, 16, 0.5, 96),
        (100, 224, 16, 0.5, 96),
        (1, 224, 14, 1.0, 14),
        (448, 224, 14, 0.5, 448),
    ],
)
def test_view_sides_are_multiples_of_the_patch(
    view_size: str | int, model_size: int, patch_size: int, extent: float, side: int
) -> None:
    """ "model" is the model's side, "native" the view's share of it, a number itself, rounded."""
    found = side_for(view_size, model_size, patch_size, extent)
    assert found % patch_size == 0
    assert found == side


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    views_at_once=st.integers(1, 70),
)
def test_chunks_cover_all_views_once_and_in_order(counts: list[int], views_at_once: int) -> None:
    """Each group's views come once, in order, never more at a time than asked for."""
    recipe = RandomCrops(tuple(SizedFamily(count, 16, (0.1, 1.0)) for count in counts))
    chunks = list(in_chunks(recipe, views_at_once))
    covered = [(group, view) for group, views in chunks for view in range(*views.indices(10**6))]
    assert covered == [(group, view) for group, n in enumerate(counts) for view in range(n)]
    assert all(0 < views.stop - views.start <= views_at_once for _, views in chunks)
    assert count_views(recipe) == sum(counts)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_batch_is_filled_up_with_its_last_sample(count: int) -> None:
    """Every array of it, behind the samples that there are; a full one is left as it is."""
    drawn = (torch.arange(6).view(3, 2), torch.tensor([5.0, 6.0, 7.0]))
    ours = filled_up(drawn, count)
    missing = count - 3
    assert ours[0].tolist() == [[0, 1], [2, 3], [4, 5]] + [[4, 5]] * missing
    assert ours[1].tolist() == [5.0, 6.0, 7.0] + [7.0] * missing
    assert (ours is drawn) == (missing == 0)


@pytest.mark.parametrize("views_at_once", [1, 5, 48, 49, 100])
def test_views_rendered_in_chunks_are_the_views_rendered_at_once(views_at_once: int) -> None:
    """How many views are made at a time changes nothing."""
    recipes: list[PixelRecipe] = [
        Patchify(64, 4, 6, 48),
        RandomCrops((SizedFamily(2, 32, (0.25, 1.0)), SizedFamily(10, 32, (0.05, 0.25)))),
    ]
    for recipe in recipes:
        drawn = [recipe.draw(noise(50, 70, seed), Stream(seed, "views")) for seed in range(2)]
        batch = tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*drawn, strict=True))
        pieces = [recipe.render(batch, *chunk) for chunk in in_chunks(recipe, views_at_once)]
        whole = [
            recipe.render(batch, group, slice(0, views.count))
            for group, views in enumerate(recipe.groups)
        ]
        assert torch.equal(torch.cat(pieces, dim=1), torch.cat(whole, dim=1))


CENTRE: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "crop_mode": "center",
}


@pytest.mark.parametrize(
    "config",
    [
        {"crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center"},
        {"crop_pct": 0.875, "interpolation": "bilinear", "crop_mode": "center"},
        {"crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
        {"crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "border"},
    ],
    ids=lambda config: f"{config['crop_mode']}-{config['crop_pct']}",
)
@pytest.mark.parametrize("side", [224, 98])
def test_the_inference_view_is_timms_evaluation_transform(
    photos: list[Pixels], config: dict[str, Any], side: int
) -> None:
    """The view's pixels are those that timm's own transform normalises, for every crop mode."""
    statistics = {"mean": (0.48, 0.457, 0.408), "std": (0.268, 0.261, 0.275)}
    config = {"input_size": (3, side, side), **statistics, **config}
    view = InferenceView(config)
    theirs = create_transform(**config, is_training=False)
    for photo in [*photos[:4], noise(1, 1), noise(5, 300), noise(300, 5), noise(20, 30)]:
        (pixels,) = view.draw(photo, Stream(0, "unused"))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (3, side, side)
        normalised: Tensor = theirs(PILImage.fromarray(photo))
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in statistics.values())
        ours = (torch.from_numpy(pixels).float() / 255 - mean) / std
        assert float((ours - normalised).abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(400_000, 1), (1, 400_000), (2, 70_000)])
def test_a_line_is_drawn_from_its_centre(shape: tuple[int, int]) -> None:
    """timm would resize all of it first, to 26 billion pixels."""
    view = InferenceView(CENTRE)
    pixels = noise(*shape)
    (ours,) = view.draw(pixels, Stream(0))
    (expected,) = view.draw(
        pixels[tuple(slice(max(0, n // 2 - 64), n // 2 + 64) for n in shape)], Stream(0)
    )
    assert ours.shape == (3, 224, 224)
    if min(shape) == 2:
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize("height", [6, 9, 10])
def test_a_long_images_view_is_timms_within_a_shift(photos: list[Pixels], height: int) -> None:
    """Cutting its ends off shifts it by half a pixel at most, as timm's own rounding does."""
    strip = np.ascontiguousarray(photos[0][200 : 200 + height])
    theirs = create_transform(**CENTRE, is_training=False, normalize=False)
    expected = theirs(PILImage.fromarray(strip)).numpy().astype(int)
    (ours,) = InferenceView(CENTRE).draw(strip, Stream(0))
    a_pixel = np.abs(np.diff(expected, axis=2)).mean()
    assert np.abs(ours - expected).mean() <= 0.6 * a_pixel
    assert (height == 10) == np.array_equal(centre_of(strip), strip)


@pytest.mark.parametrize("normalization", ["model", "imagenet"])
def test_an_images_inputs_are_normalised_pixels(photos: list[Pixels], normalization: Any) -> None:
    """By the encoder's own statistics or by ImageNet's, whichever the request says."""
    request = Crops(DINO().needs.views.families, normalization)
    recipe = image_recipe(request, Taker(32, 16), "model")
    assert isinstance(recipe, NormalizedViews)
    drawn = recipe.draw(photos[0], Stream(0, "crops"))
    batch = tuple(torch.from_numpy(array)[None] for array in drawn)
    (inputs,) = recipe.render(batch, 1, slice(2, 5))
    chosen = Taker(32, 16).statistics if normalization == "model" else IMAGENET
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in chosen)
    assert torch.equal(inputs, (batch[1][:, 2:5].float() / 255 - mean) / std)


def test_a_request_that_images_do_not_know_has_no_recipe() -> None:
    """None, which becomes an error that names the objective."""
    assert image_recipe(object(), Taker(32, 16), "model") is None


FEW_CROPS = RandomCrops((SizedFamily(2, 12, (0.25, 1.0)), SizedFamily(3, 8, (0.05, 0.25))))


def test_crops_are_made_on_a_gpu_where_there_is_one() -> None:
    """And by the loader elsewhere; a recipe that suits a device stays as it is."""
    on_gpu = FEW_CROPS.on(torch.device("cuda"))
    assert on_gpu == DeviceCrops(FEW_CROPS)
    assert on_gpu.on(torch.device("cuda")) is on_gpu
    assert on_gpu.groups == FEW_CROPS.groups == (ViewGroup(2, 12), ViewGroup(3, 8))
    assert FEW_CROPS.on(torch.device("cpu")) is FEW_CROPS


def test_a_small_image_is_sent_with_the_boxes_that_are_cut_on_the_device() -> None:
    """Of 20 x 24 pixels, which are no more than the views' 2 x 12 x 12 + 3 x 8 x 8."""
    image, recipe = noise(20, 24), DeviceCrops(FEW_CROPS)
    pixels, boxes = recipe.draw(image, Stream(0, "v"))
    assert np.array_equal(pixels, image.transpose(2, 0, 1))
    expected = FEW_CROPS.boxes(image, Stream(0, "v"))
    assert boxes.tolist() == [box for family in expected for box in family.tolist()]
    assert boxes.dtype == np.int64
    batch = (torch.from_numpy(pixels)[None], torch.from_numpy(boxes)[None])
    for group, (first, views, size) in enumerate([(0, slice(0, 2), 12), (2, slice(1, 3), 8)]):
        cut = boxes[None, first : first + 3][:, views]
        assert torch.equal(recipe.render(batch, group, views), resized_crops(batch[0], cut, size))


@pytest.mark.parametrize("sides", [(20, 24), (21, 23), (20, 25), (200, 300)])
def test_an_image_larger_than_its_views_is_sent_as_its_views(sides: tuple[int, int]) -> None:
    """Side by side, a row a family; what the device cuts out is what the loader has resized."""
    image, recipe = noise(*sides), DeviceCrops(FEW_CROPS)
    pixels, boxes = recipe.draw(image, Stream(0, "v"))
    if sides[0] * sides[1] <= 480:
        assert pixels.shape == (3, *sides)
        return
    assert pixels.shape == (3, 20, 24)
    assert pixels.dtype == np.uint8
    large = [[0, 0, 12, 12], [12, 0, 24, 12]]
    small = [[0, 12, 8, 20], [8, 12, 16, 20], [16, 12, 24, 20]]
    assert boxes.tolist() == [*large, *small]
    batch = (torch.from_numpy(pixels)[None], torch.from_numpy(boxes)[None])
    drawn = FEW_CROPS.draw(image, Stream(0, "v"))
    by_loader = tuple(torch.from_numpy(one)[None] for one in drawn)
    for group, count in enumerate((2, 3)):
        views = slice(0, count)
        torch.testing.assert_close(
            recipe.render(batch, group, views), FEW_CROPS.render(by_loader, group, views)
        )


def test_the_inference_view_is_one_group_of_pixels_over_255() -> None:
    config = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    view = InferenceView(config | {"input_size": (3, 24, 24)})
    assert view.groups == (ViewGroup(1, 24),)
    assert view.on(torch.device("cuda")) is view
    (drawn,) = view.draw(noise(40, 60), Stream(0, "nothing"))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (3, 24, 24)
    batch = torch.from_numpy(np.stack([drawn, 255 - drawn]))
    rendered = view.render((batch,), 0, slice(0, 1))
    assert rendered.shape == (2, 1, 3, 24, 24)
    assert torch.equal(rendered[:, 0], batch.float() / 255)
    assert view.render((batch,), 0, slice(0, 0)).shape[1] == 0


def test_normalised_views_follow_their_pixels_to_a_device() -> None:
    views = NormalizedViews(FEW_CROPS, IMAGENET)
    on_gpu = views.on(torch.device("cuda"))
    assert on_gpu == NormalizedViews(DeviceCrops(FEW_CROPS), IMAGENET)
    assert on_gpu.groups == views.groups == FEW_CROPS.groups


def test_an_encoder_that_does_not_say_what_pixels_it_takes_has_no_views_of_images() -> None:
    encoder = SimpleNamespace(family="odd", name="one")
    with pytest.raises(UsageError, match="takes no views of images") as caught:
        image_recipe(DINO().needs.views, encoder, "model")
    assert caught.value.where == "--model odd:one"


@pytest.mark.parametrize(("count", "groups"), [(1, [1]), (2, [2]), (4, [2, 2]), (9, [2, 3])])
def test_the_first_views_are_those_of_all(count: int, groups: list[int]) -> None:
    """Drawn as they are among all of them; a group may be cut short, and there are no more."""
    crops = RandomCrops((SizedFamily(2, 8, (0.5, 1.0)), SizedFamily(3, 8, (0.1, 0.5))))
    recipe = NormalizedViews(crops, IMAGENET)
    first = FirstViews(recipe, count).on(torch.device("cpu"))
    assert [group.count for group in first.groups] == groups
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    drawn, whole = (one.draw(image, Stream(0, "views")) for one in (first, recipe))
    for group, views in enumerate(groups):
        ours, theirs = (
            one.render(tuple(torch.from_numpy(a)[None] for a in arrays), group, slice(0, views))[0]
            for one, arrays in ((first, drawn), (recipe, whole))
        )
        assert torch.equal(ours, theirs)
