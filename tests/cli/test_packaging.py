"""The distribution: every package is in it, and nothing of a name that others might use."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def test_every_package_is_installed_under_its_own_name() -> None:
    """pyproject lists all packages; the folder cli is installed as fungi_cli, never as cli."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [path.parent.relative_to(ROOT) for path in ROOT.glob("fungistore/**/__init__.py")]
    expected = {".".join(folder.parts) for folder in folders} | {"fungi_cli", "fungi_cli.commands"}
    assert set(setup["packages"]) == expected
    assert setup["package-dir"]["fungi_cli"] == "cli"


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
