"""Pinned packages of Debian that hold data: fetched once with apt-get, known by their sha256."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from fungistore.demo.wheels import Pin, checked, scratch_folder
from fungistore.errors import FungiError
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.user_cache import user_cache
from fungistore.quantities import size


@contextmanager
def unpacked(pin: Pin, context: Context = DEFAULT) -> Iterator[Path]:
    """Yield a temporary folder with the files of a package of Debian.

    Raises:
        FungiError: the package cannot be had.
    """
    package = fetch_debian(pin, context)
    with scratch_folder() as scratch:
        _run("dpkg-deb", "--extract", package, scratch)
        yield scratch


def fetch_debian(pin: Pin, context: Context = DEFAULT) -> Path:
    """Download a package of Debian with apt-get, or reuse the cached one; its hash is checked.

    Raises:
        FungiError: it cannot be downloaded, or has another hash (a new one is not kept).
    """
    packages = user_cache() / "debs"
    name = f"{pin.name}_{pin.version.replace(':', '%3a')}_all.deb"
    if (cached := packages / name).exists():
        return checked(cached, pin.sha256, hint=f"delete {cached} to download it again")
    context.reporter.notice(f"downloading {pin} ({size(pin.bytes)}) into {packages}, once")
    with scratch_folder() as scratch:
        _run("apt-get", "download", f"{pin.name}={pin.version}", folder=scratch)
        new = checked(scratch / name, pin.sha256, hint="see 'apt-cache policy' for its origin")
        packages.mkdir(exist_ok=True)
        return new.replace(cached)


def _run(program: str, *arguments: object, folder: Path | None = None) -> None:
    """Run a program of Debian's.

    Raises:
        FungiError: it is not there, or failed.
    """
    hint = (
        "this set needs a Debian 12 whose package lists are fresh (apt-get update); elsewhere, put "
        f"the package, by its name in Debian's archive, into {user_cache() / 'debs'}"
    )
    if which(program) is None:
        raise FungiError("a program of Debian's is not installed", where=program, hint=hint)
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        found = done.stderr.strip()[-500:]
        raise FungiError("a program failed", where=" ".join(command), found=found, hint=hint)
