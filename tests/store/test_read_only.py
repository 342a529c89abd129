"""A store that its reader may not write into: all that only reads works, and writers say why not.

Permissions do not bind root, so there the commands run in a process that becomes another user. It
first runs them on a writable copy as root: the other user may not be able to import anything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fungi_cli.main import app
from typer.main import get_command

from feature_world import clustered, make_store
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.store import Store

NOBODY = 65534
RUN = """
import json, os, sys
from fungi_cli.main import app
from typer.testing import CliRunner

def run(store, out):
    said = {}
    for name, words in commands.items():
        if "--processes" in words and store == "warm.fungi":
            continue  # nobody has to start them: they are refused below
        words = [word.replace("STORE", store).replace("OUT", out) for word in words]
        result = CliRunner().invoke(app, words)
        said[name] = [result.exit_code, result.stdout, result.stderr]
    return said

commands, user = json.load(sys.stdin)
run("warm.fungi", "warm")
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
try:
    open("s.fungi/new", "w")
except PermissionError:
    print(json.dumps(run("s.fungi", "out")))
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that others may enter, with a store that nobody may write into, and a copy."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        vectors, labels = clustered(64, 2, 8)
        make_store(root / "s.fungi", {"embeddings": vectors, "gradients/kl": vectors}, labels)
        fit_pca(root / "s.fungi", PcaOptions(dim=4, name="four"))
        build_index(root / "s.fungi", IndexOptions(name="exact"))
        shutil.copytree(root / "s.fungi", root / "warm.fungi")
        for name in ("warm", "out"):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        paths = [root / "s.fungi", *(root / "s.fungi").rglob("*")]
        for path in paths:
            path.chmod(path.stat().st_mode & 0o555 | 0o444)
        yield root
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.fixture(scope="module")
def said(place: Path) -> dict[str, Any]:
    """What each command said: exit code, stdout, stderr; and the files before and after."""
    commands = {
        "status": ["status", "STORE", "--json"],
        "search": ["search", "STORE", "000000.jpg", "--index", "exact", "--k", "3", "--json"],
        "knn": ["eval", "knn", "STORE", "--k", "3", "--holdout", "0.25", "--json"],
        "knn of a pca": ["eval", "knn", "STORE", "--pca", "four", "--k", "3", "--json"],
        "linear": ["eval", "linear", "STORE", "--holdout", "0.25", "--json"],
        "export": ["export", "STORE", "OUT/e.npy", "--features", "embeddings", "--raw", "--json"],
        "knn by workers": [
            "eval",
            "knn",
            "STORE",
            "--holdout",
            "0.25",
            "--processes",
            "2",
            "--json",
        ],
        "pca": ["pca", "STORE", "--dim", "2", "--name", "two", "--json"],
        "index": ["index", "STORE", "--name", "other", "--json"],
    }
    optional = {"verify": ["verify", "STORE", "--json"], "doctor": ["doctor", "STORE", "--json"]}
    registered = get_command(app).commands  # type: ignore[attr-defined]
    commands |= {name: words for name, words in optional.items() if name in registered}
    before = files(place / "s.fungi")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=place,
        input=json.dumps([commands, NOBODY]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HOME": str(place / "out"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    if not done.stdout:
        pytest.skip("no other user can be had here, and permissions do not bind this one")
    return json.loads(done.stdout) | {"files": (before, files(place / "s.fungi"))}


def files(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [root, *root.rglob("*")]
    }


def document(said: dict[str, Any], name: str) -> dict[str, Any]:
    code, stdout, stderr = said[name]
    assert code == 0, stderr
    found: dict[str, Any] = json.loads(stdout)
    return found


def test_status_reads(said: dict[str, Any]) -> None:
    """`fungi status` tells everything."""
    (feature_set,) = document(said, "status")["feature_sets"]
    assert {array["rows_done"] for array in feature_set["arrays"]} == {64}


def test_search_by_id_reads(said: dict[str, Any]) -> None:
    """`fungi search ID` finds neighbours."""
    (answer,) = document(said, "search")["answers"]
    assert len(answer["neighbours"]) == 3


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_evaluations_print_what_they_cannot_save(said: dict[str, Any], name: str) -> None:
    """`fungi eval` gives its result on stdout, and says that it was not saved."""
    assert document(said, name)["metrics"]["accuracy"] > 0.5
    assert "not saved" in said[name][2]


def test_a_refusal_is_not_about_permissions(said: dict[str, Any]) -> None:
    """A PCA that has seen its test rows is refused for that, as anywhere."""
    code, _, stderr = said["knn of a pca"]
    assert code != 1
    assert "ermission" not in stderr


def test_export_reads(said: dict[str, Any], place: Path) -> None:
    """`fungi export` writes elsewhere what is in the store."""
    assert document(said, "export")
    stored = Store.open(place / "s.fungi").arrays("set")["embeddings"].read(0, 64)
    np.testing.assert_array_equal(np.load(place / "out" / "e.npy"), stored)


@pytest.mark.parametrize("name", ["verify", "doctor"])
def test_examinations_read(said: dict[str, Any], name: str) -> None:
    """`fungi verify` and `fungi doctor` find nothing broken."""
    if name not in said:
        pytest.skip(f"fungi {name} is not registered")
    assert document(said, name)


@pytest.mark.parametrize("name", ["pca", "index", "knn by workers"])
def test_writers_say_why_not(said: dict[str, Any], name: str) -> None:
    """A command that has to write is refused with the reason and the way on."""
    code, stdout, stderr = said[name]
    assert code == 1
    assert "cannot be written to" in stderr
    assert "Permission denied" in stderr
    assert "eval without workers only read" in " ".join(stderr.split())
    assert "cp -r" in stderr
    assert json.loads(stdout)["exit_code"] == 1


def test_nothing_was_touched(said: dict[str, Any]) -> None:
    """No file came, went or changed."""
    before, after = said["files"]
    assert before == after
