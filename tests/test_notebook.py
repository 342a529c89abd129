"""The example notebook runs from images to a classifier, a frame, a DataLoader and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from fungistore.machine.context import DEFAULT
from tiny_world import TINY, write_images

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"
QUIET_CELL = """
from fungistore.report import Silent
fungi.evaluate_knn(store.root, fungi.KnnOptions(k=1, holdout=0.5), context=fungi.Context(Silent()))
"""
LONG_CELL = """
from fungistore.machine.context import DEFAULT
DEFAULT.reporter.begin("steps", 5000)
for _ in range(5000):
    DEFAULT.reporter.advance(1)
for _ in range(50):
    DEFAULT.reporter.notice("a notice")
DEFAULT.reporter.end()
"""


def texts(cell: Any) -> str:
    """Return the plain text of a cell's outputs."""
    shown = [o.get("data", {}).get("text/plain", "") + o.get("text", "") for o in cell.outputs]
    return "\n".join(shown)


def htmls(cell: Any) -> str:
    """Return the HTML of a cell's outputs."""
    return "\n".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of nbclient, zmq and asyncio
def test_the_notebook_runs(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh folder; its cells show progress, a frame, shapes and pictures, and few outputs."""
    for number, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "images" / name, 6, seed=number)
    monkeypatch.setenv("FUNGI_MODEL", TINY)
    monkeypatch.setenv("FUNGI_WEIGHTS", str(tiny_weights))
    monkeypatch.setenv("FUNGI_IMAGE_SIZE", "160")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    notebook.cells += [new_code_cell(QUIET_CELL), new_code_cell(LONG_CELL)]
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    extracted, frame, scores, predicted, batch, found, quiet, long = cells[1:]
    assert "images: 12/12" in texts(extracted)
    assert "extracting embeddings, kl, patches of 12 images" in texts(extracted)
    shown = [o for o in extracted.outputs if o.output_type != "stream"]  # a package's warning
    assert len(shown) == 2
    assert "<table" in htmls(extracted)
    assert "<td>cat/000.jpg</td>" in htmls(frame)
    assert "accuracy" in texts(scores)
    assert "cat" in texts(predicted)
    assert "torch.Size([8, 10, 10, 64])" in texts(batch)
    assert "data:image/jpeg" in htmls(found)
    assert len(quiet.outputs) == 1
    assert "knn of" in texts(quiet)
    assert len(long.outputs) == 1
    assert "steps: 5000/5000" in texts(long)
    assert len(texts(long).splitlines()) <= 21


def test_scripts_are_told_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Outside of a kernel the same calls are silent."""
    DEFAULT.reporter.begin("steps", 10)
    DEFAULT.reporter.advance(5)
    DEFAULT.reporter.notice("a notice")
    DEFAULT.reporter.end()
    assert tuple(capfd.readouterr()) == ("", "")
