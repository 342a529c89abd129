"""What an installation makes: one command, and a package whose import is light."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def test_the_console_command_is_fungi() -> None:
    """Installing makes one command, `fungi`."""
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == "fungi"]
    assert command.value == "fungi_cli.main:main"


def test_the_public_api_is_what_the_package_promises() -> None:
    """Every public name resolves, and importing the package alone loads nothing heavy."""
    import fungistore

    for _ in range(2):  # a module of the same name would take a function's place once imported
        found = {name: getattr(fungistore, name) for name in fungistore.__all__}
        assert not [name for name, value in found.items() if isinstance(value, ModuleType)]


def test_make_alone_lists_its_targets() -> None:
    """It installs nothing unasked, and every target says what it does."""
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.*)$", rules, re.MULTILINE)[0].split()
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make"], cwd=ROOT, env=mine, capture_output=True, text=True, check=True
    )  # as outside of the `make test` that may run this
    listed = done.stdout
    assert sorted(line.split()[0] for line in listed.splitlines()) == sorted(targets)
    assert all(len(line.split()) > 1 for line in listed.splitlines())
