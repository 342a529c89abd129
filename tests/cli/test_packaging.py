"""What an installation makes: one command, and a package whose import is light."""

from __future__ import annotations

from importlib.metadata import entry_points
from types import ModuleType


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
