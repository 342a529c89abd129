"""The assertions of tests are rewritten once, on all cores.

Else each process of pytest-xdist does it for itself and all at once: 13 seconds of a core each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

NAMES = ("test_*.py", "conftest.py")


def rewrite_ahead(config: pytest.Config) -> None:
    """Fill pytest's own cache for the files that a run will collect."""
    files = sorted(set(_files(config.args, config.invocation_params.dir)))
    cores = os.cpu_count() or 1
    children = []
    for first in range(min(cores, len(files))):
        if (child := os.fork()) == 0:
            try:
                for path in files[first::cores]:
                    _rewrite(path, config)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def _files(arguments: list[str], folder: Path) -> Iterator[Path]:
    for argument in arguments:
        path = folder / argument.partition("::")[0]
        if path.is_file():
            yield path
        for name in NAMES:
            yield from path.rglob(name)


def _rewrite(path: Path, config: pytest.Config) -> None:
    state = config.stash[rewrite.assertstate_key]
    folder = rewrite.get_cache_dir(path)
    cached = folder / f"{path.stem}{rewrite.PYC_TAIL}"
    if rewrite.try_makedirs(folder) and rewrite._read_pyc(path, cached, state.trace) is None:
        content, code = rewrite._rewrite_test(path, config)
        rewrite._write_pyc(state, code, content, cached)
