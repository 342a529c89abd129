"""`fungi segment`: masks as files, of samples and of new images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from PIL import Image
from plain_protocol import PlainBank
from scene_world import CLASSES, HEIGHT, SIDE, WIDTH
from typer.testing import CliRunner

import fungistore as fungi
from fungistore.errors import FungiError, UsageError
from fungistore.store.store import Store

K, BETA = 5, 0.1


def options(folder: Path) -> fungi.SegmentOptions:
    return fungi.SegmentOptions(bank="all", k=K, beta=BETA, out=folder / "masks")


def test_masks_are_those_of_plain_numpy(scenes: Store, tmp_path: Path) -> None:
    """Of a sample by its id and by its path, and of a copy, which goes through the model."""
    file = scenes.root.parent / "test" / "006.png"
    copy = Path(shutil.copy(file, tmp_path / "006.png"))
    done = fungi.segment(scenes.root, ["test/006.png", file, copy], options(tmp_path))
    expected = PlainBank(scenes, np.arange(6), SIDE).predict(6, HEIGHT, WIDTH, K, BETA)
    assert [Path(one.mask).name for one in done.images] == ["006.png", "006-2.png", "006-3.png"]
    for one in done.images:
        mask = np.asarray(Image.open(one.mask))
        np.testing.assert_array_equal(mask, expected)
        assert sum(one.shares.values()) == pytest.approx(1)
        largest = np.bincount(expected.ravel()).argmax()
        assert next(iter(one.shares)) == CLASSES[largest]
    assert [one.row for one in done.images] == [6, 6, None]
    assert done.images[0].miou == done.images[1].miou is not None
    assert done.images[2].miou is None
    shapes = [np.asarray(Image.open(one.picture)).shape for one in done.images]
    assert shapes == [(HEIGHT, panels * WIDTH, 3) for panels in (3, 3, 2)]


def test_the_command_writes_masks_and_a_page(scenes: Store, tmp_path: Path) -> None:
    """What cannot be read is said, and the exit code is 3; all names are escaped."""
    (tmp_path / "bad.png").write_text("no image")
    page = tmp_path / "page.html"
    words = ["segment", str(scenes.root), "test/007.png", str(tmp_path / "bad.png"), "no such"]
    words += ["--k", "5", "--bank", "all", "--out", str(tmp_path / "m"), "--html", str(page)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 3, done.output
    document = json.loads(done.stdout)
    assert list(document["failed"]) == [str(tmp_path / "bad.png"), "no such"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "007-overlay.png",
        "007.png",
    ]
    text = page.read_text()
    assert text.count("<img ") == 3
    assert "&lt;b&gt;tree" in text
    assert "<b>tree" not in text


def test_no_image_is_written_over(scenes: Store, tmp_path: Path) -> None:
    """Neither one beside it, nor by another's overlay."""
    beside = Path(shutil.copy(scenes.root.parent / "test" / "006.png", tmp_path / "a.png"))
    overlay = Path(shutil.copy(beside, tmp_path / "a-overlay.png"))
    other = replace(options(tmp_path), out=tmp_path)
    for images in ([beside], [overlay, scenes.root.parent / "test" / "007.png", beside]):
        with pytest.raises(UsageError, match="over an image"):
            fungi.segment(scenes.root, images, other)
    assert beside.read_bytes() == overlay.read_bytes()


def test_files_are_named_after_images_whatever_these_are_called(
    scenes: Store, tmp_path: Path
) -> None:
    """Long, hidden and odd names become plain ones, of which none is there twice."""
    names = ["\N{SNOWMAN}" * 50, ".hidden", "a b", "a_b", "a_b-overlay", "A_B"]
    copies = [tmp_path / f"{name}.png" for name in names]
    for copy in copies:
        shutil.copy(scenes.root.parent / "test" / "006.png", copy)
    done = fungi.segment(scenes.root, copies, options(tmp_path))
    written = [Path(one.mask).name for one in done.images]
    plain = ["_" * 50, "hidden", "a_b", "a_b-2", "a_b-overlay-2", "A_B-3"]
    assert written == [f"{name}.png" for name in plain]
    assert len({path.name.lower() for path in (tmp_path / "masks").iterdir()}) == 2 * len(names)


def test_an_image_that_cannot_be_used_is_an_error_where_it_is_the_only_one(
    scenes: Store, tmp_path: Path
) -> None:
    """And so is none at all, or more neighbours than patches."""
    for images, settings in ((["nope"], {}), ([], {}), (["test/006.png"], {"k": 400})):
        with pytest.raises(FungiError):
            fungi.segment(scenes.root, images, replace(options(tmp_path), **settings))
    assert not (tmp_path / "masks").exists()


def test_known_masks_are_not_written_over_nor_joined(scenes: Store, tmp_path: Path) -> None:
    """A folder that annotate was given is refused whatever the names; elsewhere, files of others.

    What was made here is written again.
    """
    store = Path(shutil.copytree(scenes.root, tmp_path / "s.fungi"))
    known = tmp_path / "masks"
    known.mkdir()
    truth = known / "006.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(truth)
    before = truth.read_bytes()
    with pytest.raises(UsageError, match="has not made"):
        fungi.segment(store, ["test/006.png"], options(tmp_path))
    fungi.annotate(store, known)
    for image in ("test/006.png", "test/007.png"):
        with pytest.raises(UsageError, match="masks are there"):
            fungi.segment(store, [image], options(tmp_path))
    assert [one.read_bytes() for one in known.iterdir()] == [before]
    for _ in range(2):
        fungi.segment(store, ["test/006.png"], replace(options(tmp_path), out=tmp_path / "said"))
