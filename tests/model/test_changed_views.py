"""DINO's full augmentation against torchvision's functions, view by view, and against Pillow's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional

from fungistore.modalities.image.changed import (
    AMOUNTS,
    COLUMNS,
    FLIP,
    IS_GREY,
    IS_SOLARISED,
    ORDER,
    RADIUS,
    ChangedViews,
    changed,
    drawn_changes,
)
from fungistore.modalities.image.colours import blurred, solarised
from fungistore.modalities.image.crops import DeviceCrops, RandomCrops, SizedFamily
from fungistore.modalities.requests import Changes
from fungistore.objectives.dino import DINO, FIRST, LOCAL, SECOND
from fungistore.randomness import Stream

SIGMAS = 5
CROPS = RandomCrops((SizedFamily(2, 24, (0.25, 1.0)), SizedFamily(3, 17, (0.05, 0.25))))
CHANGES = (FIRST, SECOND, LOCAL, LOCAL, LOCAL)
JITTERS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


def by_torchvision(view: Tensor, drawn: Tensor, taps: int = 17) -> Tensor:
    """One view [3 s s] with what was drawn for it: DINO's transforms, one after the other."""
    if drawn[FLIP]:
        view = functional.horizontal_flip(view)
    for number in drawn[ORDER].int().tolist():
        if number >= 0:
            view = JITTERS[number](view, float(drawn[AMOUNTS][number]))
    if drawn[IS_GREY]:
        view = functional.rgb_to_grayscale(view, num_output_channels=3)
    if drawn[RADIUS]:
        view = functional.gaussian_blur(view, [taps, taps], [float(drawn[RADIUS])])
    if drawn[IS_SOLARISED]:
        view = functional.solarize(view, 128 / 255)
    return view


def views_of(photos: list[NDArray[np.uint8]], side: int, count: int = 6) -> Tensor:
    """Photographs, a few pure colours and greys among them, [n 3 s s]."""
    boxes = [Image.fromarray(photo).resize((side, side)) for photo in photos[:count]]
    views = torch.from_numpy(np.stack([np.asarray(box) for box in boxes])).permute(0, 3, 1, 2)
    views = views.contiguous().float() / 255
    pure = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1.0]])
    views[0, :, 0, :6], views[1, :, 0, :3] = pure.T, torch.tensor([0, 0.5, 1.0])
    return views


@pytest.mark.parametrize("side", [14, 33, 64])
def test_changes_are_torchvisions(photos: list[NDArray[np.uint8]], side: int) -> None:
    """Whatever is drawn, in whatever order: each view is torchvision's to rounding."""
    both = Changes(blur=0.6, solarise=0.5, grey=0.3)
    for seed in range(8):
        views = views_of(photos, side)
        drawn = torch.from_numpy(drawn_changes((both,) * 6, Stream(seed, "changes")))
        expected = torch.stack([by_torchvision(*one) for one in zip(views, drawn, strict=True)])
        found = changed(views, drawn)
        # of what lies within rounding of a threshold, either side will do
        is_near = (found - expected).abs() > 1e-4
        assert float(is_near.float().mean()) < 1e-4
        torch.testing.assert_close(found[~is_near], expected[~is_near], rtol=0, atol=5e-6)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("amount", [0.6, 0.93, 1.4])
def test_each_jitter_is_torchvisions(
    photos: list[NDArray[np.uint8]], number: int, amount: float
) -> None:
    """Alone, on pure colours, greys and photographs."""
    drawn = torch.zeros(6, COLUMNS)
    drawn[:, ORDER] = torch.tensor([-1.0, number, -1.0, -1.0])
    drawn[:, AMOUNTS] = amount - (number == 3)
    views = views_of(photos, 20)
    expected = torch.stack([by_torchvision(*one) for one in zip(views, drawn, strict=True)])
    torch.testing.assert_close(changed(views, drawn), expected, rtol=0, atol=2e-6)
    assert (expected - views).abs().max() > 0.01


@pytest.mark.parametrize("radius", [0.1, 0.7, 2.0])
def test_the_blur_is_pillows(photos: list[NDArray[np.uint8]], radius: float) -> None:
    """Which DINO's code calls, and which is boxes on bytes: to a grey level off the edges."""
    photo = Image.fromarray(photos[0]).resize((224, 224))
    expected = np.asarray(photo.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].contiguous().float() / 255
    found = blurred(pixels, torch.tensor([radius]))[0].permute(1, 2, 0).numpy() * 255
    error = np.abs(found - expected)[8:-8, 8:-8]
    assert error.mean() <= 1
    assert np.quantile(error, 0.99) <= 4


@pytest.mark.parametrize("side", [1, 2, 5, 8, 9])
def test_views_smaller_than_the_blur_reach_from_edge_to_edge(side: int) -> None:
    """With as many taps as a mirrored view has; a single pixel stays as it is."""
    view = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side))
    taps = 2 * min(8, side - 1) + 1
    expected = view if side == 1 else functional.gaussian_blur(view, [taps, taps], [1.5])
    torch.testing.assert_close(blurred(view, torch.tensor([1.5])), expected, rtol=0, atol=1e-6)


def test_solarisation_is_pillows() -> None:
    """Of every byte."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(levels[0])))
    found = solarised(torch.from_numpy(levels)[None].float() / 255)[0, 0] * 255
    assert np.array_equal(found.round().byte().numpy(), expected)


@pytest.mark.parametrize("device", [False, True])
def test_views_are_those_of_crops_alone_and_changed(
    photos: list[NDArray[np.uint8]], device: bool
) -> None:
    """The same boxes; a view depends on its sample's stream alone, to the bit."""
    plain: Any = DeviceCrops(CROPS) if device else CROPS
    recipe = ChangedViews(plain, CHANGES)
    cut = [
        [torch.from_numpy(one)[None] for one in plain.draw(photo, Stream(1, str(n)))]
        for n, photo in enumerate(photos)
    ]
    drawn = [
        [torch.from_numpy(one)[None] for one in recipe.draw(photo, Stream(1, str(n)))]
        for n, photo in enumerate(photos)
    ]
    for alone, with_changes in zip(cut, drawn, strict=True):
        assert all(map(torch.equal, alone, with_changes))
    for group, count in ((0, 2), (1, 3)):
        whole = [recipe.render(tuple(one), group, slice(0, count)) for one in drawn]
        for sample, found in enumerate(whole):
            amounts = drawn[sample][-1][0, 2 * group :]
            crops = plain.render(tuple(cut[sample]), group, slice(0, count))
            for view in range(count):
                expected = by_torchvision(crops[0, view], amounts[view])
                assert (found[0, view] - expected).abs().quantile(0.999) < 1e-5
        if not device:
            batch = tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))
            for views in (slice(0, count), *(slice(n, n + 1) for n in range(count))):
                some = recipe.render(batch, group, views)
                assert torch.equal(some, torch.cat(whole)[:, views])


def test_changes_are_as_frequent_and_as_large_as_dinos() -> None:
    """Flip 0.5, jitter 0.8 in every order, grey 0.2, blur and solarisation by the kind of crop."""
    count = 4000
    for one, blur, solarise in ((FIRST, 1.0, 0.0), (SECOND, 0.1, 0.2), (LOCAL, 0.5, 0.0)):
        drawn = drawn_changes((one,) * count, Stream(7, "many"))
        jittered = drawn[:, ORDER][:, 0] >= 0
        shares = {0.5: drawn[:, FLIP], 0.8: jittered, 0.2: drawn[:, IS_GREY]}
        for p, found in (*shares.items(), (blur, drawn[:, RADIUS] > 0), (solarise, drawn[:, 3])):
            assert abs(found.mean() - p) <= SIGMAS * (p * (1 - p) / count) ** 0.5
        for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
            amounts = drawn[:, AMOUNTS][:, column]
            assert low <= amounts.min() < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < amounts.max() <= high
            assert abs(amounts.mean() - (low + high) / 2) < SIGMAS * (high - low) / 12**0.5 / 60
        radii = drawn[:, RADIUS][drawn[:, RADIUS] > 0]
        assert 0.1 <= radii.min() < 0.12
        assert 1.95 < radii.max() <= 2.0
        orders, times = np.unique(drawn[jittered][:, ORDER], axis=0, return_counts=True)
        assert sorted(orders[0]) == [0, 1, 2, 3]
        assert len(orders) == 24
        assert times.min() > count * 0.8 / 24 - SIGMAS * (count * 0.8 / 24) ** 0.5
    together = np.corrcoef(drawn_changes((SECOND,) * count, Stream(7, "many"))[:, :4].T)
    assert np.abs(together - np.eye(4)).max() < SIGMAS / count**0.5


def test_dino_asks_for_them_by_view() -> None:
    """The first global crop, further ones, local ones; with "crops" for none."""
    full = DINO(global_crops=3, local_crops=2, augment="full").needs.views
    assert full.changes == (FIRST, SECOND, SECOND, LOCAL, LOCAL)
    assert full.families == DINO(global_crops=3, local_crops=2).needs.views.families
    assert DINO().needs.views.changes == ()
