"""The wheel in an environment of its own: types for users, and the demo without a clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from reader import real_shell
from test_distribution import build, tree
from test_pages import FIRST, read_page, real_world

pytestmark = pytest.mark.slow
__all__ = ["tree"]  # a fixture

SCRIPT = """
from pathlib import Path

import fungistore as fungi

options = fungi.ExtractOptions(model="vit_small_patch14_dinov2", features=("embeddings", "kl"))
done = fungi.extract("images/", Path("pets.fungi"), options)
print(done.samples, done.failed, done.images_per_second)
store = fungi.Store.open("pets.fungi")
scores = fungi.evaluate_knn(store.root, fungi.KnnOptions(k=10, holdout=0.2)).scores
print({"+".join(score.features): score.metrics["accuracy"] for score in scores})
fungi.build_index(store.root, fungi.IndexOptions(name="near"))
found = fungi.search(store.root, ["photo.jpg"], fungi.SearchOptions(index="near"))
fungi.write_page(Path("near.html"), found)
"""


@pytest.fixture(scope="module")
def environment(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what the wheel needs is borrowed from this one."""
    place = tmp_path_factory.mktemp("environment")
    wheel = build("wheel", tree, place / "dist")
    venv.create(place / "venv", with_pip=False)
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))  # .pth files there are not read
    pip = [sys.executable, "-m", "pip", "--python", str(place / "venv" / "bin" / "python")]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    return place / "venv" / "bin"


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout, without this checkout on the path."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )


def test_the_demo_needs_no_clone(environment: Path, tmp_path: Path) -> None:
    """From the installed package alone: a table, an index, and a page with the nearest images."""
    where = run(environment / "python", "-c", "import fungistore; print(fungistore)", cwd=tmp_path)
    assert str(environment.parent) in where.stdout
    done = run(environment / "fungi", "demo", "--images", 10, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [step["exit_code"] for step in document["steps"]] == [0] * 5
    page = (tmp_path / document["page"]).read_text(encoding="utf-8")
    assert page.count("<img") > 5


def test_the_first_page_needs_no_clone(environment: Path, tmp_path: Path) -> None:
    """docs/getting-started.md as printed, by the installed package; the hub's cache has a model."""
    weights = real_world(tmp_path / "work")
    shell = real_shell(tmp_path, weights, environment / "python")
    _, where = shell.run("python -c 'import fungistore; print(fungistore)'", tmp_path / "work")
    assert str(environment.parent) in where
    wrong = read_page(shell, tmp_path / "work", FIRST)
    assert not wrong, "\n\n".join(wrong)


def test_a_users_script_is_strictly_typed(environment: Path, tmp_path: Path) -> None:
    """`mypy --strict` knows the installed package's types: it passes this, and finds a mistake."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(SCRIPT + "done.samples.upper()\n")
    check = (environment / "python", "-m", "mypy", "--strict")
    sound = run(*check, "script.py", cwd=tmp_path)
    assert sound.stdout == "Success: no issues found in 1 source file\n"
    wrong = run(*check, "wrong.py", cwd=tmp_path)
    assert 'error: "int" has no attribute "upper"' in wrong.stdout
