"""An objective that fungi does not know, added as a user would add one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr
from fungi_cli.main import app
from torch import Tensor
from typer.testing import CliRunner

from fungistore.modalities.image.crops import CropFamily, RandomCrops
from fungistore.objectives.registry import OBJECTIVES
from tiny_world import TINY


@dataclass(frozen=True)
class Agreement:
    """Two crops of an image must have the same projection."""

    weight: float = 1.0
    head_dim: int = 8

    name: ClassVar[str] = "agreement"
    normalization: ClassVar[str] = "model"

    def views(self, image_size: int, patch_size: int, view_size: str | int) -> RandomCrops:
        return RandomCrops((CropFamily(2, image_size, (0.3, 1.0)),))

    def head_widths(self) -> dict[str, int]:
        return {"projection": self.head_dim}

    def losses(
        self, embeddings: Tensor, heads: Mapping[str, Any], negatives: Tensor | None
    ) -> Tensor:
        first, second = heads["projection"](embeddings).unbind(1)
        return self.weight * (first - second).square().sum(dim=-1)


def test_a_new_objective_is_one_class_and_its_name(
    images: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in OBJECTIVES, it is a feature, its parameters are settings, its changes mismatches."""
    monkeypatch.setitem(OBJECTIVES, Agreement.name, Agreement)
    arguments = ["extract", str(images), str(tmp_path / "s.fungi"), "--model", TINY]
    arguments += ["--weights", str(tiny_weights), "--image-size", "32", "--features", "agreement"]
    done = CliRunner().invoke(app, [*arguments, "--set", "agreement.weight=2"])
    assert done.exit_code == 0, done.stderr
    group = zarr.open_group(tmp_path / "s.fungi" / "features.zarr" / TINY, mode="r")
    gradients = group["gradients/agreement"]
    assert isinstance(gradients, zarr.Array)
    np.testing.assert_allclose(np.linalg.norm(gradients[:].astype(float), axis=1), 1, atol=1e-2)
    refused = CliRunner().invoke(app, [*arguments, "--set", "agreement.weight=3"])
    assert refused.exit_code == 4
    assert "agreement.weight: stored 2.0, asked 3.0" in refused.stderr
