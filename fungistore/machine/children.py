"""Python processes that import what this one does, and nothing from where the user happens to be.

`python -m` alone looks for modules in the working directory first, which may be a folder of
somebody else's files.
"""

from __future__ import annotations

import os
import sys


def python_command(*arguments: str) -> list[str]:
    """Return the command that runs this Python with some arguments."""
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """Return the environment in which `python_command` finds the same modules."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
