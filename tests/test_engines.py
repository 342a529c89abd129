"""Engines divide the units among workers and change nothing else; a plug-in can be one."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fungistore.engines.choose import ENGINES, Asked, choose_engine
from fungistore.engines.engine import DividedWork, Local, Place
from fungistore.engines.options import EngineChoice
from fungistore.engines.processes import Processes
from fungistore.errors import FungiError, MismatchError, StoppedError, UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.run import Extraction
from fungistore.extraction.stage import extract
from fungistore.fingerprint import Config
from fungistore.machine.context import QUIET, Context
from fungistore.objectives.registry import OBJECTIVES
from fungistore.report import Silent
from fungistore.sources.opening import open_source
from fungistore.store.locks import Slice
from plugins import install, write_plugin
from tiny_world import TINY, contents

TURNS = """
from dataclasses import dataclass

from fungistore.engines.engine import Place
from fungistore.store.locks import Slice


@dataclass(frozen=True)
class Turns:
    '''One process that takes slice after slice, smallest first, some of them twice.'''

    slices: int = 5

    def run(self, work, context):
        run = work.open(Place(), context)
        order = [*range(self.slices), 0, 3]
        return [run(Slice(index, self.slices)) for index in order]


def turns(asked):
    return Turns(asked.choice.num_workers or 5)
"""


class Told(Silent):
    """A reporter that keeps what it is told, from any thread."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.done = 0

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.done = done

    def advance(self, count: int) -> None:
        self.done += count


@pytest.fixture
def options(tiny_weights: Path) -> ExtractOptions:
    return ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        device="cpu",
        dtype="float32",
        batch_size=4,
        unit_rows=2,
        workers=1,
    )


@pytest.fixture
def whole(images: Path, tmp_path: Path, options: ExtractOptions) -> dict[str, bytes]:
    """The files of a store that one process has made."""
    extract(images, tmp_path / "whole.fungi", options)
    return contents(tmp_path / "whole.fungi")


@pytest.mark.slow
def test_python_users_have_processes_too(
    images: Path, tmp_path: Path, options: ExtractOptions, whole: dict[str, bytes]
) -> None:
    """Two processes told to a reporter give the store of one, and one result for both."""
    told = Told()
    store = tmp_path / "s.fungi"
    done = extract(images, store, options, engine=Processes(["cpu", "cpu"]), context=Context(told))
    assert contents(store) == whole
    assert (done.units_done, done.units_computed, done.images_computed) == (12, 12, 24)
    assert [(one.worker, one.units_computed) for one in done.workers] == [
        (Slice(0, 2), 6),
        (Slice(1, 2), 6),
    ]
    assert any(text.startswith("worker 1: worker 1 of 2: extracting") for text in told.notices)
    assert done.to_json()["workers"][1]["worker"] == {"id": 1, "of": 2, "units": 6}


def test_a_plug_in_places_slices_as_it_likes(
    images: Path,
    tmp_path: Path,
    options: ExtractOptions,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine of somebody else's opens the work once and runs slices in turn, some twice."""
    entries = {"fungistore.engines": {"turns": "turns_engine:turns"}}
    write_plugin(tmp_path / "plugin", "turns_engine", TURNS, entries)
    install(monkeypatch, tmp_path / "plugin", "turns_engine", ENGINES)
    engine = choose_engine(Asked(EngineChoice(engine="turns"), "cpu", {}, Silent()))
    done = extract(images, tmp_path / "s.fungi", options, engine=engine)
    assert contents(tmp_path / "s.fungi") == whole
    assert [one.units_computed for one in done.workers] == [3, 3, 2, 2, 2, 0, 0]


def test_an_engine_that_is_not_there_is_refused() -> None:
    """The error names the flag and the engines there are; flags of two engines do not mix."""
    with pytest.raises(UsageError) as error:
        choose_engine(Asked(EngineChoice(engine="dask"), "cpu", {}, Silent()))
    assert (error.value.where, error.value.found) == ("--engine", "dask")
    assert "local or processes or ray" in str(error.value.expected)
    with pytest.raises(UsageError, match="engine"):
        choose_engine(Asked(EngineChoice(engine="local", processes=2), "cpu", {}, Silent()))


def test_an_extraction_is_opened_once_and_runs_slices(
    images: Path, tmp_path: Path, options: ExtractOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second slice loads no model and draws no projection anew."""
    import fungistore.extraction.run as run

    made = []
    freeze = run.freeze
    monkeypatch.setattr(run, "freeze", lambda *args: made.append(1) or freeze(*args))
    opened = Extraction(
        open_source(str(images)),
        tmp_path / "s.fungi",
        options,
        restart=False,
        update=False,
        retry_failed=False,
        context=QUIET,
    )
    assert [opened.run(Slice(index, 3)).units_done for index in range(3)] == [4, 8, 12]
    assert made == [1]


@pytest.mark.slow
def test_the_error_of_a_worker_is_that_of_the_run(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Other settings than the feature set's end as they would in one process: class and words."""
    store = tmp_path / "s.fungi"
    extract(images, store, options)
    other = replace(options, seed=7)
    with pytest.raises(MismatchError) as alone:
        extract(images, store, other)
    with pytest.raises(MismatchError) as shared:
        extract(images, store, other, engine=Processes(["cpu", "cpu"]))
    assert str(shared.value) == str(alone.value)


def test_a_killed_worker_is_named_and_the_others_go_on(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """What the others did is kept; the same call again does the rest."""
    store = tmp_path / "s.fungi"
    killing = threading.Thread(target=kill_a_child, args=(store,))
    killing.start()
    with pytest.raises(FungiError, match="has ended without a result") as error:
        extract(images, store, options, engine=Processes(["cpu", "cpu"]))
    killing.join()
    assert "-9" in str(error.value)
    done = extract(images, store, options)
    assert done.units_done == 12
    assert 0 < done.units_computed <= 6


@pytest.mark.slow
def test_a_stop_reaches_the_workers(images: Path, tmp_path: Path, options: ExtractOptions) -> None:
    """Asked to stop, the workers end at a batch and the run with StoppedError."""
    began = time.monotonic()
    with pytest.raises(StoppedError):
        extract(
            images,
            tmp_path / "s.fungi",
            options,
            engine=Processes(["cpu", "cpu"]),
            context=Context(stop=lambda: time.monotonic() > began + 0.5),
        )


def test_a_stop_before_a_worker_hears_it_is_a_stop(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """A worker that still starts ends of the signal itself; that is no failure."""
    asked = Context(stop=lambda: True)
    with pytest.raises(StoppedError):
        extract(images, tmp_path / "s.fungi", options, engine=Processes(["cpu"]), context=asked)


OBJECTIVE = """
import sys
from dataclasses import dataclass
from typing import ClassVar

from fungistore.objectives.objective import Needs


@dataclass(frozen=True)
class Loud:
    fails: bool = False

    name: ClassVar[str] = "loud"
    needs = Needs(heads={"head": 4})

    def losses(self, views, heads, bank):
        print("printed by", sys.argv[0])
        if self.fails:
            raise RuntimeError("a library fails")
        return heads["head"](views.embeddings[:, 0]).square().sum(-1)
"""


@pytest.fixture
def loud(
    tmp_path: Path, options: ExtractOptions, monkeypatch: pytest.MonkeyPatch
) -> ExtractOptions:
    """Options of an objective that prints, in workers too."""
    entries = {"fungistore.objectives": {"loud": "loud:Loud"}}
    write_plugin(tmp_path / "plugin", "loud", OBJECTIVE, entries)
    install(monkeypatch, tmp_path / "plugin", "loud", OBJECTIVES)
    return replace(options, features=("loud",))


@pytest.mark.slow
def test_what_a_worker_prints_is_told(images: Path, tmp_path: Path, loud: ExtractOptions) -> None:
    """It does not spoil the result; its command is the parent's, which claims then name."""
    told = Told()
    done = extract(
        images, tmp_path / "s.fungi", loud, engine=Processes(["cpu"]), context=Context(told)
    )
    assert done.units_done == 12
    assert f"worker 0: printed by {sys.argv[0]}" in told.notices


@pytest.mark.slow
def test_an_unforeseen_error_of_a_worker_is_told(
    images: Path, tmp_path: Path, loud: ExtractOptions
) -> None:
    """Its type and text are, as those of one process; its traceback is for --debug."""
    told = Told()
    failing = replace(loud, objectives={"loud": {"fails": True}})
    with pytest.raises(FungiError, match="RuntimeError: a library fails") as error:
        extract(
            images, tmp_path / "s.fungi", failing, engine=Processes(["cpu"]), context=Context(told)
        )
    assert error.value.what == "unexpected error"
    assert not [text for text in told.notices if "Traceback" in text]


def test_work_is_named_so_that_anybody_can_open_it() -> None:
    """A function that is not there is an error at once, not a worker that hangs."""
    work = DividedWork("fungistore.extraction.stage:no_such", {})
    with pytest.raises(AttributeError, match="no_such"):
        Local().run(work, QUIET)


@pytest.mark.parametrize("source", ["-", "object"])
def test_what_cannot_be_divided_is_refused(
    images: Path, tmp_path: Path, options: ExtractOptions, source: str
) -> None:
    """Standard input, a Python source, and --restart are for one process; no store is made."""
    asked = open_source(str(images)) if source == "object" else source
    with pytest.raises(UsageError, match="several workers"):
        extract(asked, tmp_path / "s.fungi", options, engine=Processes(["cpu"]))
    with pytest.raises(UsageError, match="anew together"):
        extract(images, tmp_path / "s.fungi", options, engine=Processes(["cpu"]), restart=True)
    assert not (tmp_path / "s.fungi").exists()
    with pytest.raises(UsageError, match="no workers"):
        Processes([])


def kill_a_child(store: Path) -> None:
    """Kill the second worker of this process as soon as it has begun."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and is_worker(folder):
                    if list(store.glob("commits/**/*.json")) or not store.exists():
                        time.sleep(0.05)
                    os.kill(int(folder.name), signal.SIGKILL)
                    return
            except OSError:
                continue
        time.sleep(0.05)


def is_worker(folder: Path) -> bool:
    command = (folder / "cmdline").read_bytes()
    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return parent == os.getpid() and b"engines.events" in command and sys.platform == "linux"


@dataclass(frozen=True)
class OneByOne:
    """Two slices in this process, one after the other."""

    def run(self, work: DividedWork, context: Context) -> list[Config]:
        run = work.open(Place(), context)
        return [run(Slice(index, 2)) for index in range(2)]


def test_failures_are_those_that_are_left_when_all_slices_are_done(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """The first slice still sees what the second mends; the result does not name it."""
    broken = [images / "cat" / "003.jpg", images / "dog" / "009.jpg"]
    for path in broken:
        path.write_text("no image")
    store = tmp_path / "s.fungi"
    asked = replace(options, features=("embeddings",), unit_rows=16)
    assert extract(str(images), store, asked, engine=OneByOne()).failed == 2
    shutil.copy(images / "cat" / "001.jpg", broken[1])
    done = extract(str(images), store, asked, engine=OneByOne(), retry_failed=True)
    assert [one.failed for one in done.workers] == [2, 1]
    assert (done.redone, done.failed) == (1, 1)
    assert [one.path for one in done.failures] == [str(broken[0])]
