"""The cores of a CPU: pieces of work in order, each with one thread of torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from fungistore.machine.cores import one_thread_each
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


def test_stages_in_several_threads_add_up_to_the_time_that_passed() -> None:
    """Each of four threads counts for a quarter."""
    clock = Clock()
    watch = shared(clock, 4)
    for _ in range(4):
        watch.add("trunk", 2.0)
    assert {time.stage: time.seconds for time in clock.times()}["trunk"] == 2.0
    assert shared(clock, 1) is clock
