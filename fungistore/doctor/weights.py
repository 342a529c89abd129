"""Pretrained weights that are on this machine already; no connection is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fungistore.doctor.check import Check, passed, warned
from fungistore.errors import UsageError
from fungistore.machine.user_cache import user_cache
from fungistore.quantities import size

HUB_PREFIX = "models--"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
SHOWN = 4
NOT_TESTED = "whether a model hub can be reached was not tested"


def check_weights() -> Iterator[Check]:
    """List the weights in the caches of the hub, of torch, and of fungi."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from torch.hub import get_dir

    folders = [Path(HF_HUB_CACHE), Path(get_dir()) / "checkpoints"]
    with suppress(UsageError):  # who has no home has no cache there
        folders.append(user_cache())
    yield judge_weights(cached_weights(folders), folders)


def judge_weights(found: dict[str, int], folders: list[Path]) -> Check:
    """Judge the weights that were found, by name and bytes."""
    if not found:
        return warned(
            "cached weights",
            f"none in {', '.join(map(str, folders))}; {NOT_TESTED}",
            "the first fungi extract downloads them; where no hub can be reached, give --weights",
        )
    names = sorted(found)
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    total = size(sum(found.values()))
    return passed("cached weights", f"{len(names)}, {total}: {listed}; {NOT_TESTED}")


def cached_weights(folders: list[Path]) -> dict[str, int]:
    """Return the names and bytes of weights below some folders."""
    found: dict[str, int] = {}
    for folder in folders:
        for path in _files(folder):
            model = next((p for p in path.parts if p.startswith(HUB_PREFIX)), None)
            name = model.removeprefix(HUB_PREFIX).replace("--", "/") if model else path.stem
            try:
                found[name] = found.get(name, 0) + path.stat().st_size
            except OSError:  # a link into the hub's cache whose file is gone
                continue
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Yield files of weights: of the hub's cache the snapshots alone, of others the top level."""
    for path in sorted(folder.glob("*")):
        if path.suffix in SUFFIXES:
            yield path
        elif path.name.startswith(HUB_PREFIX):
            yield from (p for p in path.glob("snapshots/*/*") if p.suffix in SUFFIXES)
