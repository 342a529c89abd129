"""What is distributed: the wheel has the tree's packages and nothing else, from an sdist too."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2])
"""
FOLDERS = ("benchmarks", "cli", "docs", "examples", "fungistore", "tests")
FILES = ("*.cfg", "*.in", "*.md", "*.py", "*.toml", "*.txt", "*.yml", "LICENSE", "Makefile")


def build(kind: str, tree: Path, to: Path) -> Path:
    """Build a "wheel" or an "sdist" of a tree, and insist that nobody complains."""
    to.mkdir()
    command = [sys.executable, "-c", BUILD, kind, str(to)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for line in (done.stdout + done.stderr).splitlines() if "warning" in line.lower()]
    assert [line for line in said if "byte-compiling is disabled" not in line] == []
    (made,) = to.iterdir()
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: a build leaves files beside what it reads."""
    place = tmp_path_factory.mktemp("checkout") / "fungi"
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, place / folder, ignore=ignored)
    for path in (path for pattern in FILES for path in ROOT.glob(pattern)):
        shutil.copy(path, place)
    return place


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build("wheel", tree, tmp_path_factory.mktemp("wheel") / "dist")


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    """Found, not listed: a new package is in it; `cli/` is installed as fungi_cli, never as cli."""
    expected = {
        (name / path.relative_to(ROOT / folder)).as_posix(): path.read_bytes()
        for folder, name in (("fungistore", Path("fungistore")), ("cli", Path("fungi_cli")))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {n: data for n, data in contents(wheel).items() if ".dist-info/" not in n}
    assert found.keys() == expected.keys()
    assert found == expected
    assert {"fungistore/py.typed", "fungi_cli/py.typed", "fungistore/__init__.pyi"} <= found.keys()


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Its licence and the text of it, who made it, the README, and that it has types."""
    found = contents(wheel)
    (name,) = [name for name in found if name.endswith("/METADATA")]
    metadata = HeaderParser().parsestr(found[name].decode())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] == "fungi authors"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert (ROOT / "README.md").read_text(encoding="utf-8").strip() in metadata.get_payload()
    licence = found[name.replace("METADATA", "licenses/LICENSE")]
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_an_sdist_gives_the_same_wheel_and_has_the_whole_tree(
    wheel: Path, tree: Path, tmp_path: Path
) -> None:
    """Byte for byte; and everything that the tests, the pages and `make` need comes with it."""
    sdist = build("sdist", tree, tmp_path / "sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert contents(build("wheel", unpacked, tmp_path / "again")) == contents(wheel)
    there = {path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()}
    wanted = {path.relative_to(ROOT) for pattern in FILES for path in ROOT.glob(pattern)}
    wanted |= {
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sorted(wanted - there) == []
    assert [path for path in there if path.suffix == ".pyc"] == []
