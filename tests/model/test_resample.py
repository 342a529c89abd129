"""Crops resized on the device against Pillow, and against torchvision on tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PILImage
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from fungistore.modalities.image.crops import DeviceCrops, RandomCrops, SizedFamily
from fungistore.modalities.image.resample import resized_crops
from fungistore.randomness import Stream

FAMILIES = (SizedFamily(2, 56, (0.25, 1.0)), SizedFamily(5, 28, (0.05, 0.25)))
SIDE = st.integers(1, 90)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(image: NDArray[np.uint8], box: tuple[int, ...], size: int) -> torch.Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    return resized_crops(pixels, np.array([[box]]), size)[0, 0]


def stacked(drawn: list[tuple[NDArray[np.generic], ...]]) -> tuple[torch.Tensor, ...]:
    """Stack drawn images as the loader does, by its own function."""
    from fungistore.extraction.batches import stack_padded

    return tuple(stack_padded(arrays) for arrays in zip(*drawn, strict=True))


@given(shape=st.tuples(SIDE, SIDE), corners=st.tuples(*[st.floats(0, 1)] * 4), size=SIDE)
@example(shape=(1, 1), corners=(0.0, 0.0, 0.0, 0.0), size=1)
@example(shape=(90, 90), corners=(0.0, 0.0, 1.0, 1.0), size=1)
@example(shape=(2, 90), corners=(0.0, 0.0, 1.0, 1.0), size=90)
@settings(max_examples=150, deadline=None)
def test_a_resized_crop_is_torchvisions_and_pillows(
    shape: tuple[int, int], corners: tuple[float, ...], size: int
) -> None:
    """Any box of any image: within 1e-4 of torchvision's tensors, a grey level of Pillow's."""
    height, width = shape
    left, top = int(corners[0] * (width - 1)), int(corners[1] * (height - 1))
    right = left + 1 + int(corners[2] * (width - left - 1))
    bottom = top + 1 + int(corners[3] * (height - top - 1))
    box = (left, top, right, bottom)
    image = noise(height, width)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    place = (top, left, bottom - top, right - left, [size, size], InterpolationMode.BICUBIC)
    expected = tv.resized_crop(pixels, *place, antialias=True).clamp(0, 1)
    assert (resized(image, box, size) - expected).abs().max() <= 1e-4

    soft = image // 2 + 64  # its overshoot stays in range: Pillow cuts nothing off half-way
    pillow = PILImage.fromarray(soft).crop(box)
    same = np.asarray(pillow.resize((size, size), PILImage.Resampling.BICUBIC))
    levels = (resized(soft, box, size) * 255).permute(1, 2, 0).numpy()
    # Pillow rounds after each pass: by 0.5, and by 0.5 that the second pass carries up to 1.5 times
    assert np.abs(levels - same.astype(np.float32)).max() <= 1.26


def test_photos_are_within_one_grey_level_of_pillow(photos: list[NDArray[np.uint8]]) -> None:
    """Every crop of real photos, drawn for the device, is the loader's own within one level."""
    crops = RandomCrops(FAMILIES)
    drawn = [DeviceCrops(crops).draw(p, Stream(0, str(n))) for n, p in enumerate(photos)]
    batch = stacked(drawn)
    for number, photo in enumerate(photos):
        pillow = crops.draw(photo, Stream(0, str(number)))
        for group, views in enumerate(pillow):
            ours = DeviceCrops(crops).render(batch, group, slice(0, len(views)))[number]
            assert (ours * 255 - torch.from_numpy(views).float()).abs().max() <= 1.0


def test_a_crop_does_not_depend_on_its_neighbours(photos: list[NDArray[np.uint8]]) -> None:
    """Beside larger images, whose canvas pads it, a crop is what it is alone."""
    recipe = DeviceCrops(RandomCrops(FAMILIES))
    small, large = noise(40, 30), noise(80, 90)
    alone = stacked([recipe.draw(small, Stream(0, "small"))])
    beside = stacked([recipe.draw(i, Stream(0, "small")) for i in (small, large)])
    for group, views in enumerate(recipe.groups):
        everything = slice(0, views.count)
        expected = recipe.render(alone, group, everything)[0]
        found = recipe.render(beside, group, everything)[0]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_large_image_sends_its_views_instead() -> None:
    """What travels is never more than the views' bounding rows, and shows Pillow's pixels."""
    crops = RandomCrops(FAMILIES)
    recipe, image = DeviceCrops(crops), noise(600, 500)
    drawn = recipe.draw(image, Stream(0, "large"))
    assert drawn[0].size < image.size / 10
    expected = crops.draw(image, Stream(0, "large"))
    for group, views in enumerate(expected):
        ours = recipe.render(stacked([drawn]), group, slice(1, len(views)))[0]
        assert torch.equal((ours * 255).round().to(torch.uint8), torch.from_numpy(views[1:]))


def test_a_long_image_sends_its_views_instead() -> None:
    """A whole batch would be padded to its length: 512 images of 400,000 x 500 pixels."""
    crops = RandomCrops(FAMILIES)
    image = noise(2, 4_000)
    drawn = DeviceCrops(crops).draw(image, Stream(0, "long"))
    assert max(drawn[0].shape) < 1_000
    (ours,) = DeviceCrops(crops).render(stacked([drawn]), 0, slice(0, 1))[0]
    expected = torch.from_numpy(crops.draw(image, Stream(0, "long"))[0][0])
    assert torch.equal((ours * 255).round().to(torch.uint8), expected)


@pytest.mark.parametrize(("device", "kind"), [("cpu", RandomCrops), ("cuda", DeviceCrops)])
def test_the_device_decides_who_resizes(device: str, kind: type[object]) -> None:
    """The loader's threads for a CPU, the device itself for a GPU; both have the same views."""
    recipe = RandomCrops(FAMILIES).on(torch.device(device))
    assert isinstance(recipe, kind)
    assert recipe.groups == RandomCrops(FAMILIES).groups
