"""What this process may have of the machine, and the threads that follow from it."""

from __future__ import annotations

import os

import pytest

from fungistore.extraction.loader import MOST_WORKERS, default_workers
from fungistore.machine.resources import allowed_cores, free_memory, parse_quota, reading_threads


def test_quotas_of_control_groups() -> None:
    """`cpu.max` is a quota and a period in microseconds, or no limit."""
    assert parse_quota("max 100000\n") is None
    assert parse_quota("150000 100000") == 1.5
    assert parse_quota("50000") == 0.5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux can pin a process")
def test_cores_are_those_that_the_process_may_use() -> None:
    """A process pinned to one core has one, whatever the machine has."""
    before = os.sched_getaffinity(0)
    assert 0 < allowed_cores() <= len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert allowed_cores() <= 1
    finally:
        os.sched_setaffinity(0, before)


def test_some_memory_is_free() -> None:
    """This very process runs in it."""
    free = free_memory()
    assert free is None or free > 1 << 20


@pytest.mark.parametrize(
    ("device", "processes", "threads"),
    [("cpu", 1, 8), ("cuda", 1, 15), ("cuda", 2, 7), ("cpu", 16, 1), ("cuda", 64, 1)],
)
def test_processes_share_the_cores(
    device: str, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sixteen cores a GPU's loader takes all but one, a CPU's half; none ever has no thread."""
    monkeypatch.setattr("fungistore.extraction.loader.allowed_cores", lambda: 16.0)
    assert default_workers(device, processes) == threads
    monkeypatch.setattr("fungistore.extraction.loader.allowed_cores", lambda: 256.0)
    assert default_workers("cuda") == MOST_WORKERS


@pytest.mark.parametrize(("cores", "threads"), [(0.5, 4), (2.0, 4), (8.0, 8), (256.0, 16)])
def test_few_cores_still_keep_a_disk_busy(
    cores: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers wait more than they work, so even one core has four; no disk needs more than 16."""
    monkeypatch.setattr("fungistore.machine.resources.allowed_cores", lambda: cores)
    assert reading_threads() == threads
