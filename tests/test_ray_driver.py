"""What a driver does when workers die, nodes come and go, and the head falls silent."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fungistore.engines import placing, ray_driver, roster
from fungistore.engines.actor import Actor
from fungistore.engines.engine import DividedWork, Place, RunSlice
from fungistore.engines.ray import _ended
from fungistore.engines.ray_connection import (
    FOLDER,
    OWNER,
    TRACEBACK,
    YOUNG_SECONDS,
    _in_time,
    _join,
    _own_folder,
)
from fungistore.engines.ray_driver import STILLBORN, Driver
from fungistore.engines.roster import ClusterLostError
from fungistore.engines.share import Share
from fungistore.engines.sight import Sight
from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.fingerprint import Config
from fungistore.machine.context import Context, never
from fungistore.report import Silent
from fungistore.store.locks import BusyError, Slice
from pretend_cluster import Cluster, Death

PATIENCE = 20.0
TOY: dict[str, Callable[[Place, Context], RunSlice]] = {}


class Notices(Silent):
    """Keeps what is said, and how far the display got."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.total = self.done = 0

    def notice(self, text: str) -> None:
        self.said.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.total, self.done = total, done

    def advance(self, count: int) -> None:
        self.done += count


def open_toy(arguments: Config, place: Place, context: Context) -> RunSlice:
    return TOY["open"](place, context)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short, and what an actor does to its process is undone."""
    monkeypatch.setattr(ray_driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(roster, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(ray_driver, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ray_driver, "NEWS_SECONDS", (0.01, 0.05))
    monkeypatch.setattr(placing, "SETTLE_SECONDS", 0.01)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.argv", ["fungi"])


def ran(
    cluster: Cluster,
    opened: Callable[[Place, Context], RunSlice],
    *,
    units: int = 8,
    said: Notices | None = None,
    stop: Callable[[], bool] = never,
) -> list[Config]:
    """Run toy work on a cluster; a driver that waits for ever is stopped: another error."""
    TOY["open"] = opened
    deadline = time.monotonic() + PATIENCE
    context = Context(said or Notices(), lambda: stop() or time.monotonic() > deadline)
    work = DividedWork(f"{__name__}:{open_toy.__name__}", {}, units=units)
    driver = Driver(cluster, work, Sight("/"), Share(1, 0, "cpu"), None, context)
    with _ended(driver):
        return driver.run()


def tell(part: Slice) -> Config:
    return {"index": part.index}


def everything(units: int = 8) -> list[Config]:
    return [{"index": index} for index in range(units)]


def test_results_are_in_order_whatever_dies_and_joins() -> None:
    """A node dies within a slice, another joins and works; each slice gives one result."""
    cluster, worked = Cluster(Actor, "a", "b"), set()
    has_died = threading.Event()

    def opened(place: Place, context: Context) -> RunSlice:
        def run(part: Slice) -> Config:
            worked.add(place.node)
            if place.node == "b":
                cluster.lose("b")
                has_died.set()
            elif place.node == "a":
                assert has_died.wait(PATIENCE)
                if part.index == 7:
                    cluster.join("c")
                while "c" in cluster.names and "c" not in worked and part.index == 7:
                    time.sleep(0.01)
            return tell(part)

        return run

    said = Notices()
    assert ran(cluster, opened, said=said) == everything()
    assert worked == {"a", "b"} or worked == {"a", "b", "c"}
    assert sum("its units are placed again" in text for text in said.said) == 1


def test_a_node_that_joins_is_used() -> None:
    """The only one dies; that is told, and the next one does what is left."""
    cluster = Cluster(Actor, "a")

    def opened(place: Place, context: Context) -> RunSlice:
        def run(part: Slice) -> Config:
            if place.node == "a" and part.index == 3:
                cluster.lose("a")
                threading.Timer(0.3, cluster.join, ["c"]).start()
            return tell(part) | {"node": place.node}

        return run

    said = Notices()
    results = ran(cluster, opened, said=said)
    assert [one["index"] for one in results] == list(range(8))
    assert [one["node"] for one in results[:3]] == ["a"] * 3
    assert {one["node"] for one in results[3:]} == {"c"}
    assert "waiting for a node with 1 core; the cluster has none now" in said.said


def test_units_that_kill_their_workers_are_named_and_the_others_are_done() -> None:
    """Three deaths, not more; the cause is told."""
    cluster, done, tries = Cluster(Actor, "a", "b"), set(), []

    def opened(place: Place, context: Context) -> RunSlice:
        def run(part: Slice) -> Config:
            if part.index == 3:
                tries.append(place.node)
                raise Death("out of memory")
            done.add(part.index)
            return tell(part)

        return run

    with pytest.raises(FungiError, match="each worker that took these units died") as error:
        ran(cluster, opened)
    assert error.value.where == "units 3, 11, 19, ... (every 8th)"
    assert "out of memory" in str(error.value.found)
    assert len(tries) == placing.DEATHS
    assert done == set(range(8)) - {3}


def test_a_claim_in_the_way_of_getting_ready_is_waited_for_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each worker that finds it is replaced; that is told once, and in the end it is the error."""
    monkeypatch.setattr(ray_driver, "PATIENCE_SECONDS", 0.5)
    busy = BusyError("another process is writing into the store", found="pid 7")
    said = Notices()

    def opened(place: Place, context: Context) -> RunSlice:
        raise busy

    with pytest.raises(BusyError, match="another process"):
        ran(Cluster(Actor, "a"), opened, said=said)
    assert [text for text in said.said if "trying again" in text] == [
        "worker on a: another process is writing into the store; trying again"
    ]


def test_when_only_nodes_that_were_left_out_remain_their_error_ends_the_run() -> None:
    """Nobody waits for a node that does not see the store."""
    cluster = Cluster(Actor, "good", "blind")
    is_left_out = threading.Event()

    def opened(place: Place, context: Context) -> RunSlice:
        if place.node == "blind":
            is_left_out.set()
            raise FungiError("the store on blind is not the one that the driver sees")

        def run(part: Slice) -> Config:
            assert is_left_out.wait(PATIENCE)
            time.sleep(0.2)  # the driver has heard of it
            if part.index == 2:
                cluster.lose("good")
            return tell(part)

        return run

    with pytest.raises(FungiError, match="the store on blind"):
        ran(cluster, opened)


def test_workers_that_die_before_they_are_ready_end_the_run() -> None:
    """As where fungistore is not installed: the cause is told, and it is not tried for ever."""
    cluster, said = Cluster(Actor, "a"), Notices()

    def opened(place: Place, context: Context) -> RunSlice:
        raise Death("ModuleNotFoundError: No module named 'fungistore'")

    with pytest.raises(FungiError, match="no worker gets ready") as error:
        ran(cluster, opened, said=said)
    assert "No module named" in str(error.value.found)
    assert cluster.started == STILLBORN
    assert sum("died before it was ready" in text for text in said.said) == 1


def test_a_cluster_that_others_use_is_waited_for_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes are there, and none has room: not silence."""
    monkeypatch.setattr(ray_driver, "ROOM_SECONDS", 0.2)
    cluster, said = Cluster(Actor, "a"), Notices()
    cluster.full.add("a")

    def leave() -> None:
        with cluster.lock:
            cluster.full.clear()
            cluster.settle()

    threading.Timer(0.8, leave).start()
    assert ran(cluster, lambda place, context: tell, said=said) == everything()
    assert sum("the nodes are in use by others" in text for text in said.said) == 1


def test_a_head_that_falls_silent_is_an_error_before_ray_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while who asks it waits without an end; nothing more is asked of it."""
    monkeypatch.setattr(roster.Roster.__init__, "__defaults__", (0.5,))
    assert roster.HEAD_SECONDS < 60
    cluster, gone, killed = Cluster(Actor, "a"), threading.Event(), []
    monkeypatch.setattr(cluster, "kill", lambda worker, **_: killed.append(worker))
    alive = cluster.nodes()

    def nodes() -> list[Config]:
        if threading.current_thread() is not threading.main_thread():
            gone.wait(PATIENCE)
        return alive

    monkeypatch.setattr(cluster, "nodes", nodes)

    def opened(place: Place, context: Context) -> RunSlice:
        def run(part: Slice) -> Config:
            gone.wait(PATIENCE)
            return tell(part)

        return run

    began = time.monotonic()
    with pytest.raises(ClusterLostError, match="the head of the Ray cluster does not answer"):
        ran(cluster, opened)
    assert time.monotonic() - began < PATIENCE / 2
    assert killed == []
    gone.set()


def test_a_stop_reaches_the_workers() -> None:
    """They end at their next safe point, and the run with them; unasked they end much later."""
    cluster, at_work, heard = Cluster(Actor, "a", "b"), set[str](), set[str]()

    def opened(place: Place, context: Context) -> RunSlice:
        def run(part: Slice) -> Config:
            at_work.add(place.node)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                if context.stop():
                    heard.add(place.node)
                context.stop_if_asked()
                time.sleep(0.01)
            return tell(part)

        return run

    began = time.monotonic()
    with pytest.raises(StoppedError):
        ran(cluster, opened, stop=lambda: at_work == {"a", "b"})
    assert heard == {"a", "b"}
    assert time.monotonic() - began < PATIENCE / 2


def test_the_display_ends_where_the_work_does() -> None:
    """A slice that shows nothing is no part of the total, and one that is done is whole."""

    def opened(place: Place, context: Context) -> RunSlice:
        def run(part: Slice) -> Config:
            if part.index % 2 == 0:
                context.reporter.begin("images", 10)
                context.reporter.advance(7)  # the others had been done before it could tell
            return tell(part)

        return run

    said = Notices()
    ran(Cluster(Actor, "a", "b"), opened, said=said)
    assert (said.total, said.done) == (40, 40)


def test_joining_has_an_end_and_can_be_stopped() -> None:
    """Whoever joins in vain is left alone, and leaves again if it has joined after all."""
    answer, left = threading.Event(), threading.Event()
    with pytest.raises(TimeoutError, match="no answer in"):
        _in_time(answer.wait, left.set, never, 0.3)
    assert not left.is_set()
    answer.set()
    assert left.wait(PATIENCE)
    with pytest.raises(StoppedError):
        _in_time(threading.Event().wait, left.set, lambda: True, PATIENCE)
    with pytest.raises(ConnectionError):
        _in_time(lambda: (_ for _ in ()).throw(ConnectionError("none")), left.set, never, PATIENCE)


def test_why_a_cluster_cannot_be_joined_is_told() -> None:
    """Ray says at which address, and what went wrong in the error's cause."""

    class Refusing:
        def init(self, **_: object) -> None:
            cause = f"no session. Last:\n{TRACEBACK}\n  File\nRpcError: late\n"
            raise ConnectionError("no cluster at a:1") from RuntimeError(cause)

        def shutdown(self) -> None:
            raise AssertionError("nothing was joined")

    with pytest.raises(UsageError, match="cannot join") as error:
        _join(Refusing(), "a:1", None, never, PATIENCE)
    assert error.value.found == "no cluster at a:1; no session. Last: RpcError: late"


def test_what_a_killed_run_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder for Ray's files; not that of a run that lives, nor anything else there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, other = tmp_path / f"{FOLDER}dead", tmp_path / "other"
    for folder in (dead, other):
        (folder / "logs").mkdir(parents=True)
        (folder / OWNER).touch()
        os.utime(folder / OWNER, (0, time.time() - 2 * YOUNG_SECONDS))
    with _own_folder("auto") as folder:
        assert folder is None
        assert dead.exists()
    with _own_folder("local") as mine:
        assert mine is not None
        os.utime(Path(mine) / OWNER, (0, time.time() - 2 * YOUNG_SECONDS))
        assert not dead.exists()
        with _own_folder("local") as second:
            assert Path(mine).exists()
            assert mine != second
    assert list(tmp_path.iterdir()) == [other]
