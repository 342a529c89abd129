"""How a package that one use alone needs is installed."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

_DISTRIBUTION = "fungistore"


def install_command(extra: str, package: str) -> str:
    """Return the command that installs what an extra of ours lists.

    The extra itself (`fungistore[pandas]`) would also bring `faiss-gpu` where a light
    installation has `faiss-cpu`; they overwrite each other's files.

    Args:
        extra: its name; one that is none of ours, or "", has the package alone.
        package: what to install where nothing is known of the extra.
    """
    try:
        required = [Requirement(line) for line in requires(_DISTRIBUTION) or []]
    except PackageNotFoundError:
        required = []
    ours = [
        f"{one.name}{one.specifier}"
        for one in required
        if one.marker is not None
        and not one.marker.evaluate({"extra": ""})
        and one.marker.evaluate({"extra": extra})
    ]
    return shlex.join(["pip", "install", *(ours or [package])])
