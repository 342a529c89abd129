"""Memory of an extraction, on real processes of different lengths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tiny_world import TINY, write_images

ALLOWED_GROWTH = 25_000_000  # bytes: noise of allocators; 1,000 images as crops are 37 MB


def peak_bytes(images: Path, store: Path, weights: Path, unit_rows: int = 64) -> int:
    """The largest resident size of a `fungi extract` process, in bytes."""
    code = (
        "import resource, sys\n"
        "from typer.testing import CliRunner\n"
        "from fungi_cli.main import app\n"
        "done = CliRunner().invoke(app, sys.argv[1:])\n"
        "assert done.exit_code == 0, done.output\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
    )
    flags = f"--image-size 32 --features embeddings,dino --unit-rows {unit_rows} --batch-size 16"
    arguments = ["extract", images, store, "--model", TINY, "--weights", weights, *flags.split()]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_images(
    tmp_path: Path, tiny_weights: Path
) -> None:
    """Ten times the images take the same memory, and so do units of ten times the rows."""
    write_images(tmp_path / "few", 200)
    write_images(tmp_path / "many", 2000)
    few = peak_bytes(tmp_path / "few", tmp_path / "few.fungi", tiny_weights)
    many = peak_bytes(tmp_path / "many", tmp_path / "many.fungi", tiny_weights)
    assert many - few < ALLOWED_GROWTH, f"{few / 1e6:.0f} MB, then {many / 1e6:.0f} MB"
    long = peak_bytes(tmp_path / "many", tmp_path / "long.fungi", tiny_weights, unit_rows=1024)
    assert long - few < ALLOWED_GROWTH, f"{few / 1e6:.0f} MB, then {long / 1e6:.0f} MB"
