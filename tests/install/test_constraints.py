"""constraints.txt has the version of everything that `make` installs."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from light_requirements import BUILDS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"fungistore", "pip", "wheel"}  # what is pinned, and what came with the environment


def needed(requirement: Requirement, found: set[str]) -> None:
    """Add the names of the distributions that are installed for a requirement, its own too."""
    for extra in requirement.extras or {""}:
        if (key := f"{canonicalize_name(requirement.name)}[{extra}]") in found:
            continue
        found.add(key)
        for line in metadata.requires(requirement.name) or ():
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                needed(one, found)


def test_what_make_installs_is_pinned() -> None:
    """All extras that the Makefile names, and what these need in turn: else pip takes any.

    And nothing else: `make` installs all pins.
    """
    (extras,) = re.findall(r"--editable '\.\[(.+)\]'", (ROOT / "Makefile").read_text("utf-8"))
    found: set[str] = set()
    needed(Requirement(f"fungistore[{extras}]"), found)
    names = {name.partition("[")[0] for name in found} - ELSEWHERE
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    light = {"faiss-cpu"}  # of `make CPU=1`, which has no pins of builds
    assert sorted(names - pinned - light) == []
    idle = pinned - names  # in a light environment, builds are
    assert sorted(name for name in idle if not BUILDS.match(f"{name}==")) == []
