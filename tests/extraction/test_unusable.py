"""Features that are not finite, or zero, end a run with another exit code than 0, and a word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fungistore.store.store import Store
from tiny_world import TINY, write_images

HALF_MOST = 65504  # of float16


@pytest.fixture
def few(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 6)
    (tmp_path / "images" / "broken.jpg").write_text("broken")
    return tmp_path / "images"


def weights(path: Path, of: Path, gain: float) -> Path:
    """The model's weights, its last norm's output multiplied."""
    tensors = load_file(of)
    for name in ("norm.weight", "norm.bias"):
        tensors[name] = tensors[name] * gain
    save_file(tensors, path)
    return path


def run(images: Path, store: Path, weights: Path, *more: str):
    command = ["extract", str(images), str(store), "--model", TINY, "--weights", str(weights)]
    command += ["--image-size", "32", "--dtype", "float32", "--features", "embeddings"]
    return CliRunner().invoke(app, [*command, *more])


@pytest.mark.parametrize("gain", [float("nan"), float("inf"), 0.0])
def test_a_model_without_a_usable_number_fails(
    few: Path, tmp_path: Path, tiny_weights: Path, gain: float
) -> None:
    """NaN, infinities or zeros in every row: exit 1, though everything was written."""
    path = weights(tmp_path / "w.safetensors", tiny_weights, gain)
    done = run(few, tmp_path / "s", path, "--json")
    assert done.exit_code == 1, done.stderr
    assert json.loads(done.stdout)["unusable"] == 6
    assert json.loads(done.stdout)["failed"] == 1
    assert "embeddings: 6 of 7 rows" in done.stderr
    assert "no row is usable" in done.stderr


def test_some_unusable_rows_are_counted_and_end_with_3(
    few: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    """A value that overflows float16 in some rows; --storage-dtype float32 has room for it."""
    (few / "broken.jpg").unlink()
    run(few, tmp_path / "plain", tiny_weights, "--storage-dtype", "float32")
    rows = Store.open(tmp_path / "plain").arrays(TINY)["embeddings"].read(0, 6)
    largest = np.sort(np.abs(rows).max(axis=1))
    gain = HALF_MOST / float(largest[2:4].mean())
    path = weights(tmp_path / "w.safetensors", tiny_weights, gain)
    done = run(few, tmp_path / "half", path, "--storage-dtype", "float16", "--json")
    assert (done.exit_code, json.loads(done.stdout)["unusable"]) == (3, 3)
    again = run(few, tmp_path / "half", path, "--storage-dtype", "float16")
    assert again.exit_code == 3
    assert "3 unusable rows" in again.stdout
    whole = run(few, tmp_path / "whole", path, "--storage-dtype", "float32", "--json")
    assert (whole.exit_code, json.loads(whole.stdout)["unusable"]) == (0, 0)
