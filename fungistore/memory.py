"""How much memory this process can still have."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes that can be had without swapping, None where the system does not tell.

    The page cache counts as free. A cgroup's limit (a container's, a cluster job's) counts too.
    """
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None
    return min([free, *_cgroup_rooms()])


def _cgroup_rooms() -> list[int]:
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return []
    folder, rooms = CGROUP / own, []
    while folder != CGROUP.parent:  # each level's limit holds
        try:
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            counts = dict(
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
            rooms.append(limit - used + int(counts["inactive_file"]) + int(counts["active_file"]))
        except (OSError, ValueError, KeyError):
            pass  # no limit ("max"), or no such file at the root
        folder = folder.parent
    return rooms
