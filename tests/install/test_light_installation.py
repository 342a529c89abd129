"""The light installation: what it needs is derived from pyproject.toml, and never brings CUDA."""

from __future__ import annotations

import re
import tomllib

import pytest
from light_requirements import HEADER, ROOT, light_constraints, light_requirements
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_list_is_that_of_the_project() -> None:
    """Else: python tests/install/light_requirements.py > requirements-cpu.txt."""
    expected = HEADER + "\n".join(light_requirements()) + "\n"
    assert (ROOT / "requirements-cpu.txt").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("extras", [(), ("demo", "test", "lint")])
def test_it_is_everything_but_the_builds_for_gpus(extras: tuple[str, ...]) -> None:
    """Bounds and extras are the project's; of the two builds of faiss there is the CPU's alone."""
    found = [Requirement(line) for line in light_requirements(*extras)]
    wanted = [*PROJECT["dependencies"]]
    wanted += [line for name in extras for line in PROJECT["optional-dependencies"][name]]
    bounds = {one.name: one.specifier for one in map(Requirement, wanted)}
    del bounds["faiss-gpu"]
    assert {one.name: one.specifier for one in found} == bounds
    assert [one.name for one in found if one.marker] == []


def test_constraints_leave_out_the_builds_alone() -> None:
    """All versions that the tests ran with hold in a light environment too, but for the builds."""
    names = {re.split("==", line)[0] for line in light_constraints() if "==" in line}
    assert {"numpy", "timm", "zarr"} <= names
    assert not [name for name in names if re.match("torch|triton|faiss|nvidia|cuda", name)]
