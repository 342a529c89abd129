"""What a cluster's engine decides without a cluster: places, waits, deaths, words, flags."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from fungistore.engines.actor import Telling
from fungistore.engines.choose import Asked, choose_engine
from fungistore.engines.engine import DividedWork
from fungistore.engines.joint_progress import JointProgress
from fungistore.engines.options import EngineChoice
from fungistore.engines.placing import DEATHS, LOSSES, PATIENCE_SECONDS, Placing, slices_for
from fungistore.engines.ray import Ray
from fungistore.engines.share import Share
from fungistore.engines.sight import Sight, look, refuse_other_sight
from fungistore.errors import (
    FungiError,
    MismatchError,
    UsageError,
    error_from_json,
    error_to_wire,
)
from fungistore.machine.context import QUIET
from fungistore.report import Silent
from fungistore.store.locks import BusyError, Slice
from fungistore.store.store import Store


def test_slices_are_bounded() -> None:
    """By the units there are, and by what a driver remembers, however many workers there are."""
    assert slices_for(2, None) == 32
    assert slices_for(2, 5) == 5
    assert slices_for(10**6, 10**9) == slices_for(10**9, None) == 4096
    assert slices_for(0, 0) == 1


@pytest.mark.parametrize("seed", range(20))
def test_every_slice_ends_whatever_dies(seed: int) -> None:
    """Workers die at random, but not always: each slice gives one result, none is lost."""
    dice, now = random.Random(seed), 0.0
    placing = Placing(40, now)
    done = dict.fromkeys(range(40), 0)
    while placing.left:
        now += 1
        if (part := placing.next(now, {"a", "b"})) is None:
            continue
        placing.began(part.index, done[part.index])
        if dice.random() < 0.5:
            done[part.index] += dice.random() < 0.7  # a unit was committed before the death
            placing.died(part.index, dice.choice("abc"), "died", now)
        else:
            placing.finished(part.index, {"index": part.index})
        assert now < 10_000
    assert sorted([*placing.results, *placing.errors]) == list(range(40))
    assert all(one == {"index": index} for index, one in placing.results.items())


def test_a_slice_that_kills_its_workers_is_given_up_and_the_others_go_on() -> None:
    """The error names the units and the cause; nodes that are lost count for much less."""
    for machine, most in (("alive", DEATHS), ("gone", LOSSES)):
        placing, now, tries = Placing(3, 0.0), 0.0, 0
        while placing.left:
            now += 10
            part = placing.next(now, {"alive"})
            if part is None:
                continue
            if part.index == 1:
                tries += 1
                placing.began(1, 7)
                placing.died(1, machine, "OutOfMemoryError: too much", now)
            else:
                placing.finished(part.index, {})
        assert tries == most
        assert sorted(placing.results) == [0, 2]
        assert placing.errors[1].where == "units 1, 4, 7, ... (every 3th)"
        assert placing.errors[1].found == "OutOfMemoryError: too much"


def test_what_somebody_else_holds_is_waited_for_and_not_for_ever() -> None:
    """Waits grow; after three leases the refusal is the slice's error."""
    placing, now = Placing(1, 0.0), 0.0
    waits = []
    while placing.left:
        now += 0.5
        if placing.next(now, ()) is not None:
            waits.append(placing.failed(0, BusyError("busy"), now))
    assert waits[:3] == [1.0, 2.0, 4.0]
    assert waits[-1] == 0
    assert PATIENCE_SECONDS <= now < PATIENCE_SECONDS + 30
    assert isinstance(placing.errors[0], BusyError)


def test_an_error_of_the_work_ends_the_run_and_one_of_a_slice_does_not() -> None:
    """Other settings fail everywhere; one broken file fails its slice; three alike are enough."""
    placing = Placing(9, 0.0)
    placing.failed(0, FungiError("broken"), 0.0)
    assert placing.left == 9
    placing.failed(1, MismatchError("other settings"), 0.0)
    assert placing.left == 0
    placing = Placing(9, 0.0)
    for index in range(3):
        assert placing.next(0.0, ()) == Slice(index, 9)
        placing.failed(index, FungiError("no space"), 0.0)
    assert placing.next(0.0, ()) is None


def test_slices_without_units_are_not_run() -> None:
    """A result that tells how many units there are spares the workers a look."""
    placing = Placing(32, 0.0)
    assert placing.next(0.0, ()) == Slice(0, 32)
    placing.finished(0, {"units_total": 3})
    assert [placing.next(0.0, ()) for _ in range(3)] == [Slice(1, 32), Slice(2, 32), None]


def test_the_class_of_an_error_crosses_the_wire() -> None:
    """A worker's BusyError is one here too; of an unknown class, the exit code decides."""
    error = BusyError("another process is writing", where="s", found="pid 3", hint="wait")
    sent = json.loads(json.dumps(error_to_wire(error)))
    again = error_from_json(sent, 1)
    assert (type(again), str(again)) == (BusyError, str(error))
    assert type(error_from_json(sent | {"kind": "TheirError"}, 4)) is MismatchError
    assert type(error_from_json(MismatchError("m").to_json(), 4)) is MismatchError


class Bar(Silent):
    """Keeps what a display shows."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.shown.append((done, total))

    def advance(self, count: int) -> None:
        done, total = self.shown[-1]
        self.shown.append((done + count, total))


def test_one_bar_for_all_slices() -> None:
    """Slices that have not begun count as the others do; at the end the numbers are exact."""
    bar = Bar()
    progress = JointProgress(bar, 4)
    progress.update(0, "images", 100, 0)
    progress.show()
    progress.update(0, "images", 100, 50)
    progress.show()
    for index, total in ((0, 100), (1, 100), (2, 100), (3, 40)):
        progress.update(index, "images", total, 0)
        progress.finished(index)
        progress.show()
    assert bar.shown[:2] == [(0, 400), (50, 400)]
    assert bar.shown[-1] == (340, 340)
    progress.update(3, "images", 40, 10)  # its worker has died; the next one begins with less
    progress.show()
    assert bar.shown[-1] == (310, 340)


def test_what_several_workers_say_is_said_once() -> None:
    """Also who waits for whom, each time for another moment; and a slice's own start, never."""
    bar = Bar()
    progress = JointProgress(bar, 2)
    for node in ("a", "b"):
        progress.notice(f"worker on {node}", "loading test_vit")
        progress.notice(f"worker on {node}", f"waiting for samples: held by pid 1 on {node}")
    assert bar.notices == [
        "worker on a: loading test_vit",
        "worker on a: waiting for samples: held by pid 1 on a",
    ]
    telling = Telling()
    telling.turn_to(Slice(1, 4))
    telling.notice("worker 1 of 4: extracting embeddings")
    telling.notice("a failure")
    telling.begin("images", 10, 2)
    telling.advance(3)
    news = telling.take(0)
    assert (news["notices"], news["index"], news["began"], news["done"]) == (["a failure"], 1, 2, 5)
    assert telling.take(0)["notices"] == []


def work(store: Path, source: Path) -> DividedWork:
    return DividedWork("no:thing", {}, store=str(store), source=str(source))


def test_a_node_that_sees_something_else_says_so(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another store, none, an empty mount, a shorter file: each is told, and nothing is made."""
    store = tmp_path / "s.fungi"
    sight = look(work(store, images))
    refuse_other_sight(sight, "n1")
    assert Sight(**json.loads(json.dumps(asdict(sight)))).store_id == sight.store_id
    for path in images.rglob("*.jpg"):
        path.unlink()
    table = tmp_path / "list.csv"
    table.write_text("path\na.jpg\n")
    of_table = look(work(store, table))
    table.write_text("path\n")
    with pytest.raises(FungiError, match="the source on n1 is not the one") as error:
        refuse_other_sight(of_table, "n1")
    assert (error.value.expected, error.value.found) == ("a file of 11 bytes", "5 bytes")
    table.unlink()
    with pytest.raises(FungiError, match="source"):
        refuse_other_sight(of_table, "n1")
    for label in ("cat", "dog"):
        (images / label).rmdir()
    with pytest.raises(FungiError, match="source") as error:
        refuse_other_sight(sight, "n1")
    assert error.value.found == "no cat"
    Store.open(store).remove()
    with pytest.raises(FungiError, match="the store on n1 is not the one") as error:
        refuse_other_sight(sight, "n1")
    assert error.value.found == "no store"
    assert not store.exists()
    Store.open_or_create(store)
    with pytest.raises(FungiError, match="the store on n1") as error:
        refuse_other_sight(sight, "n1")
    assert "another store" in str(error.value.found)
    assert "all nodes share" in str(error.value.hint)
    gone = Sight(str(tmp_path / "gone"), "s.fungi", sight.store_id)
    with pytest.raises(FungiError, match="working directory"):
        refuse_other_sight(gone, "n1")


def test_flags_that_do_not_fit_together_are_refused() -> None:
    """Those of one machine beside those of a cluster, and the other way round."""
    for flags in (
        {"engine": "ray", "gpus": (0,)},
        {"actors": 2, "processes": 2},
        {"address": "auto", "worker_id": 0},
        {"engine": "ray", "num_workers": 3},
        {"engine": "processes", "actors": 2},
        {"engine": "local", "address": "auto"},
        {"gpus_per_actor": 1.5},
    ):
        with pytest.raises(UsageError):
            EngineChoice(**flags)


def chosen(device: str, **flags: object) -> Ray:
    engine = choose_engine(Asked(EngineChoice(**flags), device, {}, Silent()))
    assert isinstance(engine, Ray)
    return engine


def test_a_flag_of_a_cluster_means_ray() -> None:
    """--device decides whether workers want GPUs; a CPU's worker cannot be given any."""
    assert chosen("cpu", engine="ray") == Ray(gpus_per_actor=0)
    assert chosen("auto", address="auto") == Ray(address="auto")
    assert chosen("cuda", actors=2) == Ray(actors=2, gpus_per_actor=1)
    with pytest.raises(UsageError, match="gpus-per-actor"):
        chosen("cpu", gpus_per_actor=1)


def test_a_worker_gets_its_share_of_a_node() -> None:
    """A GPU each where there are any, else the cores of the smallest node."""
    nodes = [{"CPU": 8.0}, {"CPU": 32.0}, {"memory": 1.0}]
    assert Ray().share(nodes) == Share(8, 0, "cpu")
    assert [Ray().share(nodes).fits(node) for node in nodes] == [1, 4, 0]
    with_gpus = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 2.0}]
    assert Ray().share(with_gpus) == Share(1, 1, "cuda:0")
    assert Share(1, 0.5, "cuda:0").fits(with_gpus[0]) == 8
    assert Share(8, 1, "cuda:0").fits(with_gpus[0]) == 2
    with pytest.raises(UsageError, match="no node of the Ray cluster has room"):
        Ray(cpus_per_actor=64).share(nodes)
    assert Ray(actors=2, cpus_per_actor=64).share(nodes).cpus == 64  # it may grow


def test_without_ray_the_extra_is_named(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an ImportError, and only where the engine is asked for."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="ray is not installed") as error:
        Ray().run(work(tmp_path / "s.fungi", images), QUIET)
    assert error.value.expected == "fungistore[ray]"
    assert "pip install" in str(error.value.hint)


@pytest.mark.slow
def test_ray_is_imported_with_its_flag_alone() -> None:
    """Neither the package, nor the choice of another engine, imports it."""
    code = (
        "import sys, fungistore as f; f.Ray; f.Processes; f.extract; "
        "f.choose_engine(f.Asked(f.EngineChoice(actors=2), 'cpu', {}, None)); "
        "sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
