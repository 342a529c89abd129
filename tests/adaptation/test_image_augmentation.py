"""Training images vary by (seed, epoch, id) alone, and stay images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fungistore.adaptation.augment import NAMES, OPERATIONS, TrainingView, _operation
from fungistore.adaptation.images import repeats_of
from fungistore.adaptation.options import ImageAugmentation
from fungistore.randomness import Stream

random = np.random.default_rng(0)
PHOTO = np.asarray(
    Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((70, 50))
)


def view(**settings):
    return TrainingView(ImageAugmentation(**settings), 28, "bicubic")


def drawn(recipe, *names, photo=PHOTO):
    return recipe.draw(photo, Stream(0, "augment", *names))[0]


@pytest.mark.parametrize("auto", ["none", "trivial", "rand"])
def test_a_view_depends_on_its_names_alone(auto):
    """Nothing that ran before, and no generator of the process, changes it."""
    recipe = view(auto_augment=auto, color_jitter=0.4)
    first = [drawn(recipe, str(epoch), "id") for epoch in range(8)]
    np.random.seed(3)
    assert all(np.array_equal(drawn(recipe, str(e), "id"), first[e]) for e in (5, 2, 7))
    assert len({one.tobytes() for one in first}) == 8
    assert all(one.shape == (3, 28, 28) and one.dtype == np.uint8 for one in first)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [0.0, 10.0])
def test_every_operation_takes_every_strength(name, strength):
    """The result is an image of the same size; at full strength another one."""
    image = Image.fromarray(PHOTO)
    for sign in (0.0, 1.0):
        done = _operation(image, name, strength, sign)
        assert (done.size, done.mode) == (image.size, "RGB")
    if strength and OPERATIONS[name] is not None:
        assert not np.array_equal(np.asarray(done), PHOTO)


def test_flips_and_crops_do_what_they_say():
    """A chance of one always flips; a whole crop of a square at its own size is the image."""
    square = np.ascontiguousarray(PHOTO[:28, :28])
    whole = view(min_scale=1.0, hflip=0.0)
    found = [drawn(whole, str(n), photo=square) for n in range(20)]
    exact = [np.array_equal(one, square.transpose(2, 0, 1)) for one in found]
    for n in np.flatnonzero(exact):
        flipped = drawn(view(min_scale=1.0, hflip=1.0, vflip=1.0), str(n), photo=square)
        assert np.array_equal(flipped, found[n][:, ::-1, ::-1])
    assert any(exact)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (400, 2)])
def test_odd_images_have_views(shape):
    assert drawn(view(auto_augment="trivial"), photo=np.zeros((*shape, 3), np.uint8)).any() in (
        True,
        False,
    )


def test_a_row_that_comes_again_is_counted():
    assert repeats_of(np.array([4, 2, 4, 4, 1, 2])).tolist() == [0, 0, 1, 2, 0, 1]
