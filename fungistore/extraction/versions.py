"""Versions of the packages that read, resize and compute: beside the fingerprint, not in it.

Another version gives features that differ in their last digits at most, or so its authors mean it:
a store goes on with it, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from fungistore.report import Reporter
from fungistore.store.setups import Setups

PACKAGES = ("torch", "torchvision", "timm", "pillow", "numpy")
NONE = "none"


def running_versions() -> dict[str, str]:
    """Return the version of each package, "none" where it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def say_other_versions(setups: Setups, keys: Iterable[str], reporter: Reporter) -> None:
    """Say once with which other versions some setups were made.

    Raises:
        StoreError: a setup is damaged.
    """
    running = running_versions()
    stored: dict[str, str] = {}
    for key in keys:
        versions: Mapping[str, str] = setups.made(key).get("versions", {})
        stored |= {name: one for name, one in versions.items() if running.get(name) != one}
    if stored:
        then = ", ".join(f"{name} {stored[name]}" for name in sorted(stored))
        now = ", ".join(f"{name} {running.get(name, NONE)}" for name in sorted(stored))
        reporter.notice(
            f"the features were made with {then}; this is {now}: "
            "new ones may differ from them in their last digits"
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return NONE
