"""Plug-ins for tests: packages with entry points, installed into a directory, as pip would."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fungistore.registry import Registry


def write_plugin(
    folder: Path, module: str, source: str, entry_points: Mapping[str, Mapping[str, str]]
) -> None:
    """Write a package of one module and what declares it; it is installed where `folder` is a path.

    Args:
        folder: becomes part of sys.path, or of PYTHONPATH.
        module: the module's name.
        source: its text.
        entry_points: by group, the names and what each is: {"fungistore.modalities": {"toy":
            "toy:Toys"}}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    declared = folder / f"{module}-1.0.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    sections = (
        "\n".join([f"[{group}]", *(f"{name} = {where}" for name, where in things.items())])
        for group, things in entry_points.items()
    )
    (declared / "entry_points.txt").write_text("\n\n".join(sections) + "\n")


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, module: str, *registries: Registry
) -> None:
    """Make a plug-in that `write_plugin` wrote known to this process and its children.

    What registries have found and imported already is forgotten, and is back after the test.
    """
    for registry in registries:
        len(registry)  # finds what is there without the plug-in: that is what comes back
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, module, sys)  # so that the module is gone after the test
    del sys.modules[module]
    for registry in registries:
        anew = Registry(registry.kind, registry.group, {})
        monkeypatch.setattr(registry, "_points", anew._points | registry._own)
        monkeypatch.setattr(registry, "_loaded", {})
