"""A model's own size of images is said with its cost where it is large and nobody has chosen it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fungistore.backbones.families import load_backbone
from fungistore.extraction.measure import estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import size_remarks
from fungistore.extraction.stage import extract
from fungistore.machine.context import Context
from fungistore.report import Silent
from fungistore.store.store import Store
from tiny_world import TINY

LARGE = "vit_tiny_patch16_384"


class Heard(Silent):
    """Keeps what is said, and whether anything was measured or written before it."""

    def __init__(self, store: Path) -> None:
        self.said: list[tuple[str, bool]] = []
        self._store = store

    def notice(self, text: str) -> None:
        """Keep a line."""
        made = Store.exists(self._store) and Store.open(self._store).feature_sets()
        self.said.append((text, bool(made)))


@pytest.fixture
def large(tmp_path: Path) -> Iterator[ExtractOptions]:
    """A model whose own size is 384."""
    torch.manual_seed(0)
    path = tmp_path / "large.safetensors"
    save_file(timm.create_model(LARGE, pretrained=False, num_classes=0).state_dict(), path)
    yield ExtractOptions(
        model=LARGE, weights=str(path), features=("embeddings",), device="cpu", unit_rows=1, limit=1
    )
    path.unlink()


@pytest.mark.parametrize(
    ("size", "times"), [(512, "5.2"), (384, "2.9"), (288, "1.7"), (256, None), (224, None)]
)
def test_the_cost_is_counted_in_tokens(tiny_weights: Path, size: int, times: str | None) -> None:
    """The ratio is that of the tokens, and nothing is said of what is about usual."""
    remarks = size_remarks(load_backbone(TINY, weights=tiny_weights, image_size=size))
    if times is None:
        assert remarks == ()
    else:
        assert f"{size} x {size} pixels, the model's own size: {times} times" in remarks[0]
        assert "--image-size 224" in remarks[0]


def test_a_large_size_of_its_own_is_said_first(
    images: Path, tmp_path: Path, large: ExtractOptions
) -> None:
    """A dry run and a run say it, the latter before anything is made; not where it was chosen."""
    store = tmp_path / "s.fungi"
    (said,) = [one for one in estimate(images, store, large).remarks if "own size" in one]
    assert "384 x 384 pixels, the model's own size: 2.9 times" in said
    heard = Heard(store)
    done = extract(images, store, large, context=Context(heard))
    assert (said, False) in heard.said
    assert said in done.remarks
    chosen = Heard(store)
    extract(images, store, replace(large, image_size=384), context=Context(chosen))
    assert not any("own size" in text for text, _ in chosen.said)
