"""The script behind the docs' table gives every row of LOFF-TA's tables."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from adapted_world import write_set
from tiny_world import TINY

SCRIPT = Path(__file__).parents[2] / "benchmarks/loff_study.py"
ROWS = [
    *("Frozen + linear", "Frozen + linear, images", "LOFF", "LOFF-TA"),
    *("LOFF + Pool", "LOFF-TA + Pool", "Unfrozen + linear", "Unfrozen + LOFF"),
    *("Unfrozen + LOFF-TA", "VPT", "VPT + LOFF", "VPT + LOFF-TA"),
    *("SSF", "SSF + LOFF", "SSF + LOFF-TA"),
    *("AdaptFormer", "AdaptFormer + LOFF", "AdaptFormer + LOFF-TA"),
    *("LoRA", "LoRA + LOFF", "LoRA + LOFF-TA"),
]


@pytest.mark.slow
def test_every_row_of_the_papers_tables(tmp_path, tiny_weights):
    """In one seed of one epoch, by two processes at once; a third has nothing left to do."""
    photos, store = write_set(tmp_path / "photos", 30), tmp_path / "s.fungi"
    methods = ",".join(runpy.run_path(str(SCRIPT))["RATES"])
    model = ["--model", TINY, "--weights", str(tiny_weights), "--size", "32"]
    command = [sys.executable, SCRIPT, photos, store, *model, "--methods", methods, "--quick"]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    parts = [subprocess.Popen([*command, "--part", part], **pipes) for part in ("0/2", "1/2")]
    done = "".join(part.communicate()[0] for part in parts)
    assert [part.returncode for part in parts] == [0, 0]
    assert done.count("fungi adapt ") == len(methods.split(","))
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ran = [line for line in said.splitlines() if line.startswith("fungi ")]
    assert ran == [f"fungi table loff {store} --time-backbone 8"]
    table = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [cells[1] for cells in table[2:]] == ROWS
    assert all(cells[8] != "-" for cells in table[2:])  # images a second of backbone and head
    assert "x the training images a second" in said
