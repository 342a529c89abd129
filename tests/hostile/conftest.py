"""Fixtures of the hostile tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_world import TINY


@pytest.fixture
def quick(tiny_weights: Path) -> list[object]:
    """Flags of an extraction that takes a moment."""
    model = ["--model", TINY, "--weights", tiny_weights, "--image-size", 32]
    return [*model, "--dtype", "float32", "--features", "embeddings"]
