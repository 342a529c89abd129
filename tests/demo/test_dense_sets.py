"""`examples/dense_sets.py` on toys: no package is downloaded here."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungistore.demo.debian import fetch_debian
from fungistore.demo.wheels import Pin
from fungistore.errors import FungiError, UsageError
from fungistore.randomness import Stream

SCRIPT = Path(__file__).parents[2] / "examples" / "dense_sets.py"


@pytest.fixture(scope="module")
def dense_sets():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("dense_sets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["dense_sets"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["dense_sets"]


def toy(dense_sets):
    """A set of two pictures of 3 x 4 pixels."""
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    image = np.stack([mask * 100] * 3, axis=-1)
    picture = dense_sets.Picture
    return dense_sets.DenseSet(
        ("a", "b", "c"),
        lambda: iter([picture("train", "x", image, mask), picture("test", "y", image, mask.T)]),
    )


def test_a_set_is_images_indexed_masks_names_and_a_manifest(dense_sets, tmp_path):
    """The manifest's paths lead to the pixels; a mask's indices are the names' lines."""
    assert dense_sets.write_set(toy(dense_sets), tmp_path) == 2
    with (tmp_path / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "test"]
    with Image.open(tmp_path / rows[1]["mask"]) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), np.arange(12).reshape(3, 4).T % 3)
    assert (tmp_path / "classes.txt").read_text() == "a\nb\nc\n"
    with Image.open(tmp_path / rows[0]["path"]) as image:
        assert image.mode == "RGB"


def test_colours_are_pascal_vocs(dense_sets):
    """Classes 1 (aeroplane), 9 (chair) and 15 (person) have the colours of its masks."""
    colours = [dense_sets.class_colour(index) for index in (0, 1, 9, 15)]
    assert colours == [(0, 0, 0), (128, 0, 0), (192, 0, 0), (192, 128, 128)]


def test_a_set_is_not_written_over_files(dense_sets, tmp_path):
    """A folder that holds a file is refused."""
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="empty folder"):
        dense_sets.write_set(toy(dense_sets), tmp_path)


def nifti(voxels, kind=2):
    """A `.nii.gz` file's bytes with these voxels [x, y, z]."""
    header = np.zeros(352, np.uint8)
    header[40:48] = np.array([3, *voxels.shape], "<i2").view(np.uint8)
    header[70:72] = np.array([kind], "<i2").view(np.uint8)
    header[108:112] = np.array([352], "<f4").view(np.uint8)
    header[344:348] = np.frombuffer(b"n+1\0", np.uint8)
    return gzip.compress(header.tobytes() + voxels.tobytes(order="F"))


def test_nifti_volumes_are_read_x_first(dense_sets, tmp_path):
    """Voxels come back at their coordinates; another type of voxel is refused."""
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "v.nii.gz").write_bytes(nifti(voxels))
    np.testing.assert_array_equal(dense_sets.read_nifti(tmp_path / "v.nii.gz"), voxels)
    (tmp_path / "v.nii.gz").write_bytes(nifti(voxels, kind=4))
    with pytest.raises(FungiError, match="uint8"):
        dense_sets.read_nifti(tmp_path / "v.nii.gz")


def test_regions_of_the_atlas_fall_into_their_lobes(dense_sets):
    """0 stays background; the first and the last region of a lobe are in it."""
    regions = np.array([0, 1, 28, 29, 43, 91, 116], np.uint8)
    names = [dense_sets.LOBES[lobe][0] for lobe in dense_sets.lobes(regions)]
    cerebellum = ["cerebellum", "cerebellum"]
    frontal = ["background", "frontal", "frontal"]
    assert names == [*frontal, "insula", "occipital", *cerebellum]


def test_only_tiles_with_land_and_water_are_kept(dense_sets):
    """Tiles of one surface say nothing; strips of columns are for test."""
    side = dense_sets.TILE
    mask = np.zeros((side, 4 * side), np.uint8)
    mask[: side // 2, side : 3 * side] = 1
    image = np.zeros((*mask.shape, 3), np.uint8)
    kept = [(tile.name, tile.split) for tile in dense_sets.tiles(image, mask)]
    assert kept == [("tile-00-01", "train"), ("tile-00-02", "test")]


def test_a_rendered_picture_is_its_streams_alone_and_its_mask_exact(dense_sets, monkeypatch):
    """The mask marks the pixels that a stamp covers, and no other; the same stream, the same."""
    monkeypatch.setattr(dense_sets, "CANVAS", 64)
    monkeypatch.setattr(dense_sets, "LONGER_SIDE", (20, 30))
    red = Image.new("RGBA", (9, 5), (255, 0, 0, 255))
    draw = [dense_sets.render(Stream(1, "toy"), [[red], [red]]) for _ in range(2)]
    np.testing.assert_array_equal(draw[0][0], draw[1][0])
    image, mask = draw[0]
    is_red = (image == (255, 0, 0)).all(axis=-1)
    assert 0 < is_red.sum() < is_red.size
    assert (mask[is_red] > 0).all()
    assert ((mask > 0).sum() - is_red.sum()) < 0.2 * is_red.sum()  # the soft rim of a turned stamp
    other, _ = dense_sets.render(Stream(2, "toy"), [[red], [red]])
    assert (other != image).any()


def test_test_pictures_show_cut_outs_that_training_never_does(dense_sets):
    """Train and test divide a class's cut-outs."""
    cut_outs = [Image.new("RGBA", (1, 1)) for _ in range(7)]
    train, test = (dense_sets.shown(cut_outs, is_test) for is_test in (False, True))
    assert len(test) == 2
    assert sorted(map(id, train + test)) == sorted(map(id, cut_outs))


def test_mirrored_twins_are_left_out_and_transparent_rims_cut(dense_sets, tmp_path, monkeypatch):
    """A twin of a training cut-out would be known in test."""
    monkeypatch.setattr(dense_sets, "STAMP_CLASSES", {"bird": "animals/birds"})
    folder = tmp_path / "animals" / "birds" / "small"
    folder.mkdir(parents=True)
    image = Image.new("RGBA", (10, 10))
    image.paste((1, 2, 3, 255), (2, 2, 5, 6))
    image.save(folder / "a.png")
    image.save(folder / "a_mirror.png")
    ((kept,),) = dense_sets.read_stamps(tmp_path)
    assert kept.size == (3, 4)


def test_a_package_of_debian_is_taken_from_the_cache_or_its_absence_explained(
    tmp_path, monkeypatch
):
    """A cached file with the wrong content is refused; without apt-get it is said what to do."""
    monkeypatch.setenv("FUNGI_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    pin = Pin("toy", "1-1", "0" * 64, 3)
    with pytest.raises(FungiError, match=r"apt-get.*debs"):
        fetch_debian(pin)
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs" / "toy_1-1_all.deb").write_bytes(b"abc")
    with pytest.raises(FungiError, match="sha256"):
        fetch_debian(pin)
