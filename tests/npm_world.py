"""Servers that npm installs, as child processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from s3_world import end, wait_for


@contextmanager
def npm_server(package: str, script: str, folder: Path, url: str, *flags: str) -> Iterator[None]:
    """Install a package and run a script of it; skip where that cannot be.

    Args:
        package: with its version.
        script: name of its program.
        folder: where it is installed, and runs.
        url: that answers once it is ready.
        flags: of the program.
    """
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm and node are not installed")
    command = [npm, "install", "--no-audit", "--no-fund", "--silent", package]
    if subprocess.run(command, cwd=folder, check=False, timeout=300).returncode != 0:
        pytest.skip(f"npm cannot install {package}")
    program = [node, str(folder / "node_modules" / ".bin" / script), *flags]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(program, cwd=folder, stdout=out, stderr=out)
    try:
        wait_for(url, process)
        yield
    finally:
        end(process)
