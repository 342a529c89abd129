"""Locks: who may write what beside whom, what a refusal tells, and that the dead hold nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from list_source import numbered

from fungistore.errors import FungiError, StoppedError
from fungistore.machine.context import Context
from fungistore.report import Silent
from fungistore.store.failures import Failure
from fungistore.store.listing import add_source
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.store import Store

HOLDER = """
import sys, time
from pathlib import Path
from fungistore.store.store import Store
with Store.open(Path(sys.argv[1])).writing(*sys.argv[2:]):
    print("held", flush=True)
    time.sleep(600)
"""
NOTER = """
import sys
from pathlib import Path
from fungistore.store.failures import Failure
from fungistore.store.store import Store
store = Store.open(Path(sys.argv[1]))
first = int(sys.argv[2])
for row in range(first, first + 100):
    store.add_failures([Failure(row, "x" * 300, "ImageError", "broken", "set")])
    if row % 10 == 0:
        store.compact_failures()
"""
CREATOR = """
import sys
from pathlib import Path
from fungistore.store.store import Store
sys.stdin.readline()
print(Store.open_or_create(Path(sys.argv[1])).manifest.id)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.open_or_create(tmp_path / "s.fungi")
    add_source(made, numbered(5))
    return made


def hold(store: Store, *things: str) -> subprocess.Popen[str]:
    """Let another process hold things until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(store.root), *things]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize(
    ("first", "one", "second", "other", "fits"),
    [
        ("features/a/x", WHOLE, "features/a/x", WHOLE, False),
        ("features/a/x", WHOLE, "features/a/y", WHOLE, True),
        ("features/a/x", WHOLE, "features/a/xy", WHOLE, True),
        ("features/a/x", WHOLE, "features/a", WHOLE, False),
        ("features/a", WHOLE, "features/a/x", Slice(1, 2), False),
        ("features/a/x", Slice(0, 2), "features/a/x", Slice(1, 2), True),
        ("features/a/x", Slice(0, 2), "features/a/x", Slice(0, 2), False),
        ("features/a/x", Slice(0, 2), "features/a/x", Slice(1, 3), False),
        ("features/a/x", Slice(0, 2), "features/a/x", WHOLE, False),
        ("", WHOLE, "indexes/a/i", WHOLE, False),
        ("heads/a/h", WHOLE, "", WHOLE, False),
    ],
)
def test_what_can_be_written_beside_what(
    store: Store, first: str, one: Slice, second: str, other: Slice, *, fits: bool
) -> None:
    """Different things, and different slices of one division, are written at once; no others."""
    with store.writing(first, part=one), ExitStack() as stack:
        if fits:
            stack.enter_context(store.writing(second, part=other))
        else:
            with pytest.raises(FungiError, match="another process is writing"):
                stack.enter_context(store.writing(second, part=other))
    with store.writing(second, part=other):
        pass


def test_a_refusal_names_the_owner(store: Store) -> None:
    """Who is refused learns pid, host, since when, and the command of the owner."""
    process = hold(store, "features/vit/kl")
    try:
        with pytest.raises(FungiError) as caught, store.writing("features/vit"):
            pass
        text = str(caught.value)
        assert f"pid {process.pid} on {os.uname().nodename} since 2" in text
        assert "features/vit/kl" in text
        (claim,) = store.writers()
        assert (claim.pid, claim.thing) == (process.pid, "features/vit/kl")
    finally:
        kill(process)


def test_a_dead_owner_holds_nothing(store: Store) -> None:
    """After SIGKILL the same thing can be held at once, and the dead one's files are gone."""
    kill(hold(store, "features/vit/kl", "features/vit/dino"))
    assert store.writers() == []
    with store.writing("features/vit"):
        assert len(list((store.root / ".locks").glob("*.json"))) == 1


def test_waiting_ends_with_the_owner_or_by_request(store: Store) -> None:
    """With patience, the second waits and says for whom; a stop request ends the waiting."""

    class Notes(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def notice(self, text: str) -> None:
            self.lines.append(text)

    notes = Notes()
    process = hold(store, "samples")
    with (
        pytest.raises(StoppedError),
        store.writing("samples", patience=Context(notes, lambda: bool(notes.lines))),
    ):
        pass
    assert f"pid {process.pid}" in notes.lines[0]
    killer = threading.Timer(0.3, kill, [process])
    killer.start()
    with store.writing("samples", patience=Context(notes)):
        assert len(notes.lines) == 2
    killer.join()


def test_a_sweep_leaves_another_writers_files(store: Store) -> None:
    """Partial files are left alone while another process writes, and removed when none does."""
    partial = store.root / f".x.{'0' * 32}.partial"
    partial.write_text("half")
    process = hold(store, "features/vit/kl")
    try:
        with store.writing("features/vit/dino") as opened:
            assert opened.sweep() == 0
            assert partial.exists()
    finally:
        kill(process)
    with store.writing("features/vit/dino") as opened:
        assert opened.sweep() == 1
    assert not partial.exists()


def test_a_setup_that_another_writer_may_need_is_kept(store: Store) -> None:
    """Unused setups are deleted only by a writer that is alone."""
    store.setups.freeze({"seed": 1}, {}, {})
    process = hold(store, "features/vit/kl")
    try:
        with store.writing("features/other") as opened:
            opened.remove_unused_setups()
        assert len(list((store.root / "setups").iterdir())) == 1
    finally:
        kill(process)
    with store.writing("features/other") as opened:
        opened.remove_unused_setups()
    assert not list((store.root / "setups").iterdir())


def test_failures_of_several_processes_are_all_kept(store: Store) -> None:
    """Three processes note and compact at once: no line is lost, none is torn."""
    run = [sys.executable, "-c", NOTER, str(store.root)]
    processes = [subprocess.Popen([*run, str(100 * n)]) for n in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [failure.row for failure in store.failures()] == list(range(300))
    store.compact_failures(mended=[Failure(7, "", "", "", "set"), Failure(8, "", "", "", "other")])
    assert [f.row for f in store.failures()] == [*range(7), *range(8, 300)]


def test_a_store_that_several_processes_make_is_one(tmp_path: Path) -> None:
    """Of processes that make a store at the same moment, all get the same one."""
    command = [sys.executable, "-c", CREATOR, str(tmp_path / "s.fungi")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert len({process.communicate()[0] for process in processes}) == 1
