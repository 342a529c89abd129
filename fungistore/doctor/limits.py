"""Limits of the system that a large store meets: open files, mapped files, shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fungistore.doctor.check import Check, failed, passed, warned
from fungistore.quantities import size

LEAST_FILES = 64  # what Python, torch and a database of weights have open already, and some
GOOD_FILES = 1024  # the loader of train-loff maps a quarter of the limit
LEAST_MAPS = 65_530  # the kernel's default; the loader maps 4,096 files, torch some thousand
LEAST_SHARED = 64e6  # what a container gets if nobody asks for more
MAX_MAPS = Path("/proc/sys/vm/max_map_count")
SHARED = Path("/dev/shm")


def check_limits() -> Iterator[Check]:
    """Check open files, mapped files and shared memory; a system without one has no limit."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield judge_files(
            *(None if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
        )
    except ImportError:
        yield passed("open files", "no limit known on this system")
    try:
        yield judge_maps(int(MAX_MAPS.read_text()))
    except (OSError, ValueError):
        yield passed("mapped files", "no limit known on this system")
    try:
        space = os.statvfs(SHARED)
        yield judge_shared(space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)
    except (OSError, AttributeError):
        yield passed("shared memory", f"no {SHARED} on this system; fungi needs none")


def judge_files(soft: int | None, hard: int | None) -> Check:
    """Judge the limit of open files; None is no limit."""
    if soft is None:
        return passed("open files", "no limit")
    found = f"{soft} at a time" + (f", {hard} if asked for" if hard else "")
    more = GOOD_FILES if hard is None else min(GOOD_FILES * 4, hard)
    fix = f"ulimit -n {more}" + (" (or ask an administrator)" if more < GOOD_FILES else "")
    if soft < LEAST_FILES:
        return failed("open files", found, fix)
    if soft < GOOD_FILES:
        return warned("open files", found + "; training reads patch tensors slower", fix)
    return passed("open files", found)


def judge_maps(most: int) -> Check:
    """Judge how many mappings a process may have."""
    if most < LEAST_MAPS:
        return warned("mapped files", f"{most} mappings", f"sysctl vm.max_map_count={LEAST_MAPS}")
    return passed("mapped files", f"{most} mappings")


def judge_shared(free: int, total: int) -> Check:
    """Judge shared memory: fungi uses none, but PyTorch's worker processes need it."""
    found = f"{size(free)} of {size(total)} free"
    if free < LEAST_SHARED:
        return warned(
            "shared memory",
            found + "; fungi needs none, worker processes of a DataLoader do",
            "docker run --shm-size=1g, or num_workers=0 in your own loaders",
        )
    return passed("shared memory", found)
