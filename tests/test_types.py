"""A user's script is typed: what public functions return is known to mypy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """from pathlib import Path

import fungistore as fungi
import numpy as np
from torch.utils.data import DataLoader

options = fungi.ExtractOptions(model="m", features=("embeddings", "patches"))
result = fungi.extract([Path("a.jpg"), "b.jpg"], "s.fungi", options)
store = fungi.Store.open(result.store)
for batch in DataLoader(store.dataset("patches", split="train"), batch_size=8):
    print(batch["patches"].shape, batch["label"])
matrix = fungi.open_features(store, ["embeddings"])
array = np.asarray(matrix)
frame = store.to_pandas()
print(frame["path"], len(matrix), matrix.shape, matrix[3:5].mean(), array.mean())
print(fungi.evaluate_knn("s.fungi", fungi.KnnOptions(k=3)).to_pandas())
found = fungi.search("s.fungi", "a.jpg")
print(found.answers[0].neighbours[0].sample.label)
step = fungi.FungiTransformer("m", features=["kl"])
print(step.fit(["a.jpg"]).transform(["a.jpg"]).shape, fungi.load_head(store).head)
"""


@pytest.mark.slow
def test_a_script_from_images_to_scores_is_strictly_typed(tmp_path: Path) -> None:
    """With features, a DataLoader, a frame, scores, a search and a pipeline's step; no cast."""
    (tmp_path / "script.py").write_text(SCRIPT)
    package = {"MYPYPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | package, capture_output=True, text=True, check=False
    )
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout
