"""What this process may still have of the machine: memory and cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
LEAST_READERS = 4
MOST_READERS = 16


def free_memory() -> int | None:
    """Return the bytes that can be had without swapping, None where the system does not tell.

    The page cache counts as free. A cgroup's limit (a container's, a cluster job's) counts too.
    """
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None
    return min([free, *_rooms()])


def allowed_cores() -> float:
    """Return the cores that this process may use: its affinity, and the cgroups' CPU limits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min([float(cores or 1), *_quotas()])


def reading_threads() -> int:
    """Return how many threads keep a disk busy: they decompress, but mostly wait for it."""
    return max(LEAST_READERS, min(MOST_READERS, int(allowed_cores())))


def parse_quota(text: str) -> float | None:
    """Return the cores of a cgroup's `cpu.max`, None where there is no limit."""
    quota, _, period = text.strip().partition(" ")
    return None if quota == "max" else int(quota) / int(period or 100_000)


def _rooms() -> Iterator[int]:
    for folder in _own_cgroups():
        try:
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            counts = dict(
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
            yield limit - used + int(counts["inactive_file"]) + int(counts["active_file"])
        except (OSError, ValueError, KeyError):
            pass  # no limit ("max"), or no such file at the root


def _quotas() -> Iterator[float]:
    for folder in _own_cgroups():
        try:
            quota = parse_quota((folder / "cpu.max").read_text())
        except (OSError, ValueError):
            quota = None
        if quota is not None:
            yield quota


def _own_cgroups() -> Iterator[Path]:
    """Yield this process's cgroup and those around it: each level's limit holds."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return
    folder = CGROUP / own
    while folder != CGROUP.parent:
        yield folder
        folder = folder.parent
