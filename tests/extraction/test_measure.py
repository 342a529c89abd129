"""What is measured before the first unit: a batch that the device holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fungistore.errors import FullMemoryError
from fungistore.extraction.freeze import as_frozen
from fungistore.extraction.measure import with_fitting_batch
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.extraction.stage import extract
from fungistore.machine.context import QUIET, Context
from fungistore.report import Silent
from fungistore.sources.opening import open_source
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from tiny_world import TINY, write_images

IMAGES = 20


class Notices(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        """Keep a line."""
        self.said.append(text)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that knows twenty images, and has no feature yet."""
    write_images(tmp_path / "images", IMAGES)
    made = Store.open_or_create(tmp_path / "s.fungi")
    with made.writing("samples") as target:
        add_source(target, open_source(str(tmp_path / "images")))
    return Store.open(made.root)


@pytest.fixture
def opened(tiny_weights: Path) -> Resolved:
    """Settings whose batch nobody has decided, as a GPU's are."""
    options = ExtractOptions(model=TINY, weights=str(tiny_weights), image_size=64, device="cpu")
    return replace(resolve(options, {}), batch_size=64, batch_is_open=True)


@pytest.fixture
def room() -> Iterator[list[int]]:
    """The images that "memory" holds: a projection head that is given more raises torch's error."""
    images = [IMAGES]

    def refuse(module: nn.Module, entered: tuple[Any, ...]) -> None:
        is_head = isinstance(module, nn.Linear) and module.out_features == 768
        if not is_head or not isinstance(entered[0], Tensor):
            return
        if len(entered[0].unique(dim=0)) > images[0]:  # without a CPU's copies of the last one
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = register_module_forward_pre_hook(refuse)
    yield images
    handle.remove()


def test_a_batch_is_halved_until_it_fits(store: Store, opened: Resolved, room: list[int]) -> None:
    """Of 64, 32, 16 images sixteen fit; each step is said, and the answer is final."""
    room[0] = 17
    reporter = Notices()
    found = with_fitting_batch(opened, store.samples, Context(reporter))
    assert (found.batch_size, found.batch_is_open) == (16, False)
    assert [line.rpartition(" ")[2] for line in reporter.said] == ["32", "16"]
    room[0] = 1
    assert with_fitting_batch(found, store.samples, Context(reporter)) == found


def test_few_images_leave_a_large_batch(store: Store, opened: Resolved, room: list[int]) -> None:
    """Twenty images fit, so a batch of 64 stays: there is nothing to try more with."""
    found = with_fitting_batch(opened, store.samples, QUIET)
    assert (found.batch_size, found.batch_is_open) == (64, False)


def test_no_batch_is_less_than_an_image(store: Store, opened: Resolved, room: list[int]) -> None:
    """Where one image is too much, the error that explains it comes through."""
    room[0] = 0
    with pytest.raises(FullMemoryError, match="memory does not hold"):
        with_fitting_batch(opened, store.samples, QUIET)


def test_a_frozen_batch_is_not_tried_again(store: Store, opened: Resolved, room: list[int]) -> None:
    """What another worker froze in the meantime is taken as it is."""
    images = str(store.root.parent / "images")
    extract(images, store.root, replace(opened.options, batch_size=8))
    room[0] = 0
    frozen = as_frozen(opened, Store.open(store.root))
    assert (frozen.batch_size, frozen.batch_is_open) == (8, False)
    assert with_fitting_batch(frozen, store.samples, QUIET) == frozen
