"""The house: floors that import from below alone, no circle, modules of a readable length."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fungistore"
# from the ground up; what stands on one line may not import from each other
FLOORS = (
    (
        "errors",
        "names",
        "notebook",
        "overview",
        "report",
        "choices",
        "extras",
        "fingerprint",
        "headings",
        "markup",
        "quantities",
        "randomness",
        "registry",
        "settings",
        "text",
        "type_words",
    ),
    ("machine",),
    ("remote",),
    ("location",),
    ("containers",),
    ("modalities",),
    ("sources",),
    ("store",),
    ("backbones",),
    ("objectives",),
    ("gradients",),
    ("matrices", "annotations"),
    ("engines",),
    ("annotating",),
    ("extraction", "pca", "exchange", "labelling", "copying"),
    ("indexing", "joint"),
    ("searching", "evaluation", "planning"),
    ("training",),
    ("loff", "segmentation", "prompting", "adaptation"),
    ("tables",),
    ("verification", "doctor", "demo"),
)
LONGEST_MODULE = 400  # lines


def modules() -> dict[str, Path]:
    """Every module by its name below the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    names = {path: path.relative_to(PACKAGE).with_suffix("").as_posix() for path in paths}
    return {name.removesuffix("/__init__").replace("/", "."): p for p, name in names.items()}


def imports(path: Path) -> Iterator[str]:
    """Every module of the package that a file imports, wherever in it; not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            module = node.module or ""
            if module.startswith("fungistore."):
                yield module.removeprefix("fungistore.")
            elif module == "fungistore":
                yield from (alias.name for alias in node.names)


def test_nothing_imports_upwards() -> None:
    """A package imports from lower floors and from its own; those of one floor not each other."""
    height = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imports(path)
        if (own := name.partition(".")[0]) in height
        and (theirs := other.partition(".")[0]) != own
        and height[theirs] >= height[own]
        and not (height[own] == 0 == height[theirs])
    ]
    assert wrong == []


def test_every_room_has_a_floor() -> None:
    """A new package is given a place on purpose."""
    rooms = {name.partition(".")[0] for name in modules()} - {"__init__"}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_no_circle() -> None:
    """Modules import each other without a circle, inside packages too."""
    graph = {name: set(imports(path)) & modules().keys() for name, path in modules().items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_commands_that_are_told_can_be_typed() -> None:
    """A path in a command that a message gives goes through `quote`: it may have spaces."""
    bare = re.compile(r"""fungi [a-z-]+ (?:SOURCE )?\{(?!quote\(|shlex|architecture)[^}]*\}""")
    found = [
        f"{name}: {match}"
        for name, path in modules().items()
        for match in bare.findall(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["fungistore", "cli"])
def test_modules_stay_short(folder: str) -> None:
    """A module that grows beyond what one can hold in the head is divided."""
    paths = (PACKAGE.parent / folder).rglob("*.py")
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {name: count for name, count in lengths.items() if count > LONGEST_MODULE} == {}
