"""Every command of every page runs as printed, in order, and prints what the page shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pages import CHECKOUT, PAGES, blocks
from reader import Reader, Shell, real_shell

from fungistore.demo.images import textile_images, textile_subset
from fungistore.demo.weights import dinov2_vits14_weights
from fungistore.errors import FungiError
from tiny_world import write_images

FIRST = CHECKOUT / "docs" / "getting-started.md"
OTHERS = [page for page in PAGES if page != FIRST]
CLASSES = ("global", "local", "nominal")
IMAGES_PER_CLASS, PHOTO = 40, "local/textile_0002.jpg"  # the photo is none of them
# What a page may leave unrun, and who runs it instead.
REASONS = {
    "trains a whole backbone": "tests/docs/test_examples.py, whose examples of --help are small",
    "installs": "tests/install",
    "the demo": "tests/demo/test_tour.py, and tests/install/test_installed.py from a wheel",
    "make": "it runs what the Makefile says, in an environment of its own",
    "needs GPUs": "tests/test_engines.py gives processes CPUs instead",
    "needs a model of twelve blocks": "tests/extraction/test_target_layers.py, whose model has two",
    "needs other files": "those of a page's reader, under names of their own",
}


def write_world(folder: Path) -> Path:
    """Write what a reader has: images in class folders, and a photo."""
    for seed, label in enumerate(CLASSES):
        write_images(folder / "images" / label, 10, seed=seed)
        for number, image in enumerate(sorted((folder / "images" / label).iterdir()), 1):
            image.rename(image.with_name(f"textile_{number:04d}.jpg"))
    shutil.move(folder / "images" / "local" / "textile_0010.jpg", folder / "photo.jpg")
    return folder


def real_world(folder: Path) -> Path:
    """Write the same of real images; returns a real model's weights."""
    try:
        weights, images = dinov2_vits14_weights(), textile_images()
    except FungiError as error:
        pytest.skip(str(error))
    textile_subset(IMAGES_PER_CLASS, folder / "images")
    shutil.copy(images / PHOTO, folder / "photo.jpg")
    return weights


def read_page(shell: Shell, folder: Path, page: Path) -> list[str]:
    """Do all that a page says in a folder; returns what went wrong."""
    reader, wrong = Reader(shell, folder), []
    for block in blocks(page):
        if block.not_run is None:
            wrong += reader.follow(block)
    reader.leave()
    return wrong


@pytest.fixture(scope="session")
def started(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder that docs/getting-started.md leaves behind, and what went wrong there."""
    folder = write_world(tmp_path_factory.mktemp("reader") / "work")
    return folder, read_page(shell, folder, FIRST)


def test_the_first_page(started: tuple[Path, list[str]]) -> None:
    """A reader comes from a folder of images to a result."""
    assert not started[1], "\n\n".join(started[1])


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.stem)
def test_a_page(page: Path, shell: Shell, started: tuple[Path, list[str]], tmp_path: Path) -> None:
    """It goes on from where docs/getting-started.md ends, whatever other pages do."""
    folder = Path(shutil.copytree(started[0], tmp_path / "work"))
    wrong = read_page(shell, folder, page)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
def test_all_pages_with_the_real_commands_and_a_real_model(tmp_path: Path) -> None:
    """In an own process each, on real images; numbers are near those that the pages show."""
    shell, first = real_shell(tmp_path, real_world(tmp_path / "first")), tmp_path / "first"
    wrong = read_page(shell, first, FIRST)
    for page in OTHERS:
        wrong += read_page(shell, Path(shutil.copytree(first, tmp_path / page.stem)), page)
    assert not wrong, "\n\n".join(wrong)


def test_what_is_not_run_has_a_known_reason() -> None:
    """A page says why, in the words of a short list, of which none is idle."""
    left_out = [block for page in PAGES for block in blocks(page) if block.not_run]
    assert {block.not_run for block in left_out} == set(REASONS)
    assert all(block.can_be_run for block in left_out)
