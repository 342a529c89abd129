"""A hundred kills over all stages: the store ends as if none had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stage_world import (
    STAGES,
    assert_same_content,
    assert_sound,
    environment,
    extract_command,
    stage_command,
    write_split_images,
)

KILLS = 100
KILLS_AT_ONCE = 7  # of one stage of one store
LEAST = 10  # of each stage, or the storm was none
STARTING = 0.15  # part of the kills before the first write; the others count writes, since
# seconds mean little on a machine that has other things to do
SKIPPED = 3
Signature = frozenset[tuple[str, int, int]]


@dataclass(frozen=True)
class Course:
    """An uninterrupted run: when it first wrote, how often it was seen to write, its end."""

    first_write: float
    writes: int
    seconds: float


class Victim:
    """A process group that is going to be killed, watched by what it does to the store."""

    def __init__(self, command: list[str], store: Path, said: Path) -> None:
        self._store, self._began = store, time.monotonic()
        self.writes, self._seen = 0, signature(store)
        self.first_write = float("inf")
        with said.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def run_until(self, is_time: Callable[[Victim], bool]) -> int | None:
        """Return the exit code, or None: the time came first, and it was killed."""
        while not is_time(self):
            if (code := self.process.poll()) is not None:
                return code
            if (now := signature(self._store)) != self._seen:
                self._seen = now
                self.writes += 1
                self.first_write = min(self.first_write, self.seconds)
            time.sleep(0.003)
        if (code := self.process.poll()) is not None:
            return code
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return None


def signature(store: Path) -> Signature:
    """What is in the store, as far as `stat` tells."""
    found = []
    for folder, _, files in os.walk(store):
        for name in files:
            try:
                stat = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            found.append((os.path.join(folder, name), stat.st_ino, stat.st_mtime_ns))
    return frozenset(found)


def records(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.glob("commits/**/*.json")}


def moment(chance: random.Random, course: Course, left: float) -> Callable[[Victim], bool]:
    """Draw when to kill a run that has this part of its work before it."""
    if chance.random() < STARTING:
        after = chance.uniform(0, course.first_write)
        return lambda victim: victim.seconds > after
    writes = chance.randint(1, max(1, round(left * course.writes)))
    wait = chance.uniform(0, 2 * (course.seconds - course.first_write) / course.writes)
    due = float("inf")

    def is_time(victim: Victim) -> bool:
        nonlocal due
        if victim.writes >= writes:
            due = min(due, victim.seconds + wait)
        return victim.seconds >= due

    return is_time


@dataclass(frozen=True)
class World:
    """Images, weights, and a store that was made without a kill."""

    images: Path
    weights: Path
    whole: Path
    courses: dict[str, Course]

    def command(self, stage: str, store: Path, *more: object) -> list[str]:
        if stage == "extract":
            return extract_command(self.images, store, self.weights, *more)
        return stage_command(stage, store, *more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> World:
    folder = tmp_path_factory.mktemp("storm")
    images, whole = write_split_images(folder / "images"), folder / "whole.fungi"
    courses = {}
    world = World(images, tiny_weights, whole, courses)
    for stage in STAGES:
        victim = Victim(world.command(stage, whole), whole, folder / "said")
        code = victim.run_until(lambda _: False)
        assert code == (SKIPPED if stage == "extract" else 0), (folder / "said").read_text()
        courses[stage] = Course(victim.first_write, victim.writes, victim.seconds)
    return world


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(world: World, tmp_path: Path) -> None:
    """SIGKILL at random moments, the same command again: every file is that of one quiet run."""
    chance, kills, rounds = random.Random(0), Counter[str](), 0
    while kills.total() < KILLS or min(kills[stage] for stage in STAGES) < LEAST:
        store = tmp_path / f"{rounds}.fungi"
        loaders = ("--workers", 1 + 3 * (rounds % 2))
        for stage in STAGES:
            command = world.command(stage, store, *(loaders if stage == "extract" else ()))
            kills[stage] += storm(world, command, stage, store, chance, KILLS_AT_ONCE, tmp_path)
        assert_same_content(store, world.whole)
        assert_sound(store)
        rounds += 1
    print(f"{rounds} stores, killed: {dict(kills)}, {world.courses}")


def storm(
    world: World,
    command: list[str],
    stage: str,
    store: Path,
    chance: random.Random,
    most: int,
    folder: Path,
) -> int:
    """Run a command until it comes through, killing it up to `most` times; returns how often."""
    course, left = world.courses[stage], 1.0
    for kills in range(most + 1):
        before = records(store)
        when = moment(chance, course, left) if kills < most else lambda _: False
        victim = Victim(command, store, folder / "said")
        code = victim.run_until(when)
        now = records(store)
        assert all(now[path] == record for path, record in before.items()), "committed work is gone"
        if code is not None:
            assert code == (SKIPPED if stage == "extract" else 0), (folder / "said").read_text()
            return kills
        left = max(0.0, left - victim.writes / course.writes)
    raise AssertionError  # the last run is not killed
