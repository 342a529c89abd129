"""Masks as files and pictures, and the page that shows them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fungistore.annotations.masks import VOID
from fungistore.segmentation.page import render_page, section
from fungistore.segmentation.pictures import encoded_mask, nearest, overlaid, palette, shrunk
from fungistore.segmentation.segment import SegmentedImage, SegmentResult

VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]


def test_the_palette_is_pascal_vocs() -> None:
    """Its first and last colours, and no colour twice among a thousand."""
    colours = palette(1000)
    assert [tuple(one) for one in colours[:6].tolist()] == VOC
    assert colours[20].tolist() == [0, 64, 128]
    assert colours[255].tolist() == [224, 224, 192]
    assert len(np.unique(colours, axis=0)) == 1000


@pytest.mark.parametrize(("classes", "mode"), [(3, "P"), (256, "P"), (257, "I;16")])
def test_a_mask_reads_back_as_its_classes(classes: int, mode: str) -> None:
    """As an indexed PNG with the palette; of more classes than that has room for, in 16 bits."""
    mask = np.random.default_rng(0).integers(0, classes, (7, 9)).astype(np.uint16)
    mask[0, 0] = classes - 1
    image = Image.open(io.BytesIO(encoded_mask(mask, classes)))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), mask)
    if mode == "P":
        assert tuple(image.getpalette()[3:6]) == VOC[1]


def test_another_size_takes_the_nearest_pixel() -> None:
    """As Pillow does it, smaller and larger, along each side alone."""
    mask = np.arange(30, dtype=np.uint16).reshape(5, 6)
    for height, width in ((5, 6), (10, 3), (2, 17), (1, 1)):
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(nearest(mask, height, width), np.asarray(resized))


def test_an_overlay_leaves_what_is_void() -> None:
    """A mask of another size than the picture lies over it, and void pixels stay as they are."""
    image = np.full((4, 4, 3), 100, np.uint8)
    mask = np.array([[1, VOID]], np.uint16)
    shown = overlaid(image, mask, 2)
    assert (shown[:, 2:] == 100).all()
    assert shown[0, 0].tolist() == [115, 45, 45]
    assert shrunk(np.zeros((3000, 1500, 3), np.uint8)).shape == (1024, 512, 3)


def test_the_page_says_nothing_in_html_but_its_own() -> None:
    """Names of images, classes and stores, and what went wrong, are escaped."""
    bad = "<script>'\"&"
    one = SegmentedImage(bad, None, bad, bad, 2, 2, {bad: 1.0}, 0.5, 0.75)
    failed = {bad: bad}
    result = SegmentResult(bad, bad, bad, (bad,), (bad,), 3, 0.02, (one,), failed, {})
    page = render_page(result, [section(one, [(bad, "<img>")], {bad: (1, 2, 3)})])
    assert "<script>" not in page
    assert page.count("&lt;script&gt;&#x27;&quot;&amp;") == 11
    assert "mIoU 50.0, pixel accuracy 75.0" in page
    assert "rgb(1,2,3)" in page
