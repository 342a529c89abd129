"""The cores of a CPU: pieces of work in order, each with one thread of torch."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from fungistore.machine.cores import one_thread_each
from fungistore.machine.precision import float32_products
from fungistore.machine.stopwatch import Clock, shared

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Let torch have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_has_one_thread(threads: int) -> None:
    """Here and on the other cores; afterwards torch has what it had, in threads to come too."""
    seen = set()

    def work(piece: int) -> int:
        seen.add(torch.get_num_threads())
        return piece * piece

    with one_thread_each(CPU) as cores:
        assert cores.count == threads
        assert torch.get_num_threads() == 1
        assert list(cores.map(work, range(20))) == [piece * piece for piece in range(20)]
    assert seen == {1}
    assert torch.get_num_threads() == threads
    later = threading.Thread(target=lambda: seen.add(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == {1, threads}


def test_an_error_of_a_piece_is_raised(threads: int) -> None:
    """The pieces before it are there, and the number of threads is restored."""
    with one_thread_each(CPU) as cores:
        made = cores.map(lambda piece: 6 // piece, [1, 2, 0])
        assert [next(made), next(made)] == [6, 3]
        with pytest.raises(ZeroDivisionError):
            next(made)
    assert torch.get_num_threads() == threads


def test_callers_in_several_threads_take_turns(threads: int) -> None:
    """Each has all cores, and none leaves its single thread of torch to the process."""
    counts = []

    def call() -> None:
        for _ in range(20):
            with float32_products(), one_thread_each(CPU) as cores:
                counts.append((cores.count, sum(cores.map(lambda piece: piece, range(8)))))

    callers = [threading.Thread(target=call) for _ in range(4)]
    torch.set_float32_matmul_precision("medium")
    try:
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert counts == [(threads, 28)] * 80
    left = []
    later = threading.Thread(target=lambda: left.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert left == [threads]


def test_a_forked_process_has_cores_of_its_own() -> None:
    """It would wait for ever for threads that were not forked with the pool."""
    code = (
        "import os, torch\n"
        "from fungistore.machine.cores import one_thread_each\n"
        "torch.set_num_threads(2)\n"
        "def total():\n"
        "    with one_thread_each(torch.device('cpu')) as cores:\n"
        "        return sum(cores.map(abs, range(4)))\n"
        "assert total() == 6\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(total())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "6\n", done.stderr


def test_stages_in_several_threads_add_up_to_the_time_that_passed() -> None:
    """Each of four threads counts for a quarter."""
    clock = Clock()
    watch = shared(clock, 4)
    for _ in range(4):
        watch.add("trunk", 2.0)
    assert {time.stage: time.seconds for time in clock.times()}["trunk"] == 2.0
    assert shared(clock, 1) is clock
