"""Power cuts: whatever a disk loses of a run, no committed unit is lost, and the work goes on."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
from power_cut import Disk, Killed, Recorder, Step, Tree, write_tree

from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from tiny_world import TINY, contents, write_images

NAME = "s.fungi"


@dataclass(frozen=True)
class Phase:
    """One command.

    Attributes:
        images: which images there are.
        run: it, on a store.
    """

    images: str
    run: Callable[[Path], object]


@dataclass(frozen=True)
class World:
    """A store that is made of six images, grown to eleven, mended, and has later stages.

    Attributes:
        place: where the images are, and folders to work in.
        phases: its commands.
        steps: what each that was run so far did.
        ends: what the store held after each.
    """

    place: Path
    phases: dict[str, Phase]
    steps: dict[str, list[Step]]
    ends: dict[str, dict[str, bytes]]

    def record(self, phase: str) -> None:
        """Run the commands up to one, if they were not, and put its images in place."""
        top = self.place / "disk"
        for name in self.phases:
            if name not in self.steps:
                self.put_images(name)
                recorder = Recorder(top)
                with recorder.watching():
                    self.phases[name].run(top / NAME)
                self.steps[name] = recorder.steps
                self.ends[name] = contents(top / NAME)
            if name == phase:
                break
        self.put_images(phase)

    def before(self, phase: str) -> Disk:
        """Return the disk as it was before a phase."""
        disk = Disk()
        for name, steps in self.steps.items():
            if name == phase:
                break
            for step in steps:
                disk.do(step)
        return disk

    def put_images(self, phase: str) -> None:
        images = self.place / "images"
        shutil.rmtree(images, ignore_errors=True)
        shutil.copytree(self.place / self.phases[phase].images, images)


def phases_of(place: Path, weights: Path) -> dict[str, Phase]:
    options = ExtractOptions(
        model=TINY,
        weights=str(weights),
        image_size=32,
        features=("embeddings", "kl"),
        unit_rows=4,
        batch_size=1,  # so that rows that are made anew have the same bits
        dtype="float32",
        device="cpu",
        workers=1,
    )
    images = str(place / "images")
    few = Phase("few", lambda root: extract(images, root, options))
    more = Phase("more", lambda root: extract(images, root, options))
    redo = Phase("mended", lambda root: extract(images, root, options, retry_failed=True))
    pca = Phase("mended", lambda root: fit_pca(root, PcaOptions(dim=2, name="two")))
    index = Phase("mended", lambda root: build_index(root, IndexOptions(name="i")))
    anew = Phase("mended", lambda root: extract(images, root, options, restart=True))
    return {"few": few, "more": more, "redo": redo, "pca": pca, "index": index, "restart": anew}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> World:
    place = tmp_path_factory.mktemp("power")
    write_images(place / "more" / "cat", 6, seed=1)
    write_images(place / "more" / "dog", 5, seed=2)
    sound = (place / "more/cat/001.jpg").read_bytes()
    (place / "more/cat/001.jpg").write_bytes(sound[:100])
    shutil.copytree(place / "more", place / "mended")
    shutil.copytree(place / "more/cat", place / "few/cat")
    (place / "mended/cat/001.jpg").write_bytes(sound)
    (place / "disk").mkdir()
    return World(place, phases_of(place, tiny_weights), {}, {})


@pytest.fixture(autouse=True)
def no_flushes() -> Iterator[None]:
    """The disk that is tested is a model; the one beneath need not be waited for."""
    with patch.object(os, "fsync", lambda descriptor: None):
        yield


def check(world: World, phase: str, disk: Disk, tree: Tree) -> None:
    """Open and verify what is left, look for what was promised, and run the command again."""
    top = world.place / "cut"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    write_tree(tree, top)
    root = top / NAME
    if disk.promises:
        assert (root / "store.json").is_file(), "the store is gone"
    if (root / "store.json").is_file():
        found = verify_store(root)
        assert found.errors == ()
        arrays = {}
        for (name, unit), promised in disk.promises.items():
            feature_set, _, path = name.partition("/")
            array = arrays.get(name) or Store.open(root).arrays(feature_set)[path]
            arrays[name] = array
            commit = array.commit(unit)
            assert commit is not None, f"unit {unit} of {name} is lost"
            assert commit.rows >= promised.rows
            assert commit.checksum_of(promised.rows) == promised.checksum
            assert array.holds(commit)
    world.phases[phase].run(root)
    assert contents(root) == world.ends[phase]
    assert verify_store(root).is_sound


def moments(world: World, phase: str) -> Iterator[tuple[int, Disk]]:
    """Yield the disk before each step of a phase, and after the last; it is one that changes."""
    disk = world.before(phase)
    yield 0, disk
    for number, step in enumerate(world.steps[phase], 1):
        disk.do(step)
        yield number, disk


def outcomes(world: World, phase: str, chance: random.Random) -> Iterator[tuple[Disk, Tree]]:
    """Yield every different state that a power cut may leave, with the disk as it was."""
    seen = set()
    for _, disk in moments(world, phase):
        for tree in disk.outcomes(chance):
            key = hash((frozenset(tree.items()), frozenset(disk.promises.items())))
            if key not in seen:
                seen.add(key)
                yield disk, tree


PHASES = ("few", "more", "redo", "pca", "index", "restart")


@pytest.mark.parametrize("phase", ["few", "more", "redo"])
def test_some_power_cuts_lose_nothing_that_was_committed(world: World, phase: str) -> None:
    """A moment of some commands, and one of the states that a cut may leave there."""
    world.record(phase)
    chance = random.Random(phase)
    chosen = chance.randrange(len(world.steps[phase]))
    for number, disk in moments(world, phase):
        if number == chosen:
            trees = list(disk.outcomes(chance))
            check(world, phase, disk, trees[chance.randrange(len(trees))])


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_no_power_cut_loses_what_was_committed(world: World, phase: str) -> None:
    """Before every step, every state, or dozens drawn where there are more."""
    world.record(phase)
    chance, count = random.Random(phase), 0
    for disk, tree in outcomes(world, phase, chance):
        check(world, phase, disk, tree)
        count += 1
    print(f"{phase}: {len(world.steps[phase])} steps, {count} states")
    assert count > 5


def killed_then_cut(world: World, phase: str, kill_at: int, chance: random.Random) -> None:
    """Kill a command before a step, let the same command come through, and cut the power then.

    What the second one counted as done, because the first one had written it, is as durable.
    """
    top = world.place / "killed"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    disk = world.before(phase)
    (state, *_) = disk.outcomes(chance, 1)
    write_tree(state, top)
    recorder = Recorder(top, kill_at)
    with recorder.watching(), pytest.raises(Killed):
        world.phases[phase].run(top / NAME)
    again = Recorder(top)
    with again.watching():
        world.phases[phase].run(top / NAME)
    assert contents(top / NAME) == world.ends[phase]
    for step in (*recorder.steps, *again.steps):
        disk.do(step)
    for tree in disk.outcomes(chance, 3):
        left = {path: data for path, data in tree.items() if data is not None}
        whole = {f"{NAME}/{path}": data for path, data in world.ends[phase].items()}
        assert left.items() >= whole.items(), sorted(whole.keys() - left.keys())
    check(world, phase, disk, tree)


@pytest.mark.parametrize("renamed", ["config.json", "00000000.json"])
def test_a_kill_before_a_flush_and_then_a_power_cut_lose_nothing(
    world: World, renamed: str
) -> None:
    """A kill between the renaming of a setup's or a unit's last file, and its folder's flush."""
    world.record("few")
    steps = world.steps["few"]
    rename = next(n for n, s in enumerate(steps) if s.kind == "rename" and s.path.endswith(renamed))
    killed_then_cut(world, "few", rename + 1, random.Random(0))


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_no_kill_and_power_cut_lose_anything(world: World, phase: str) -> None:
    """A kill after every renaming and before every third step of every command."""
    world.record(phase)
    chance, steps = random.Random(phase), world.steps[phase]
    after = [number + 1 for number, step in enumerate(steps[:-1]) if step.kind == "rename"]
    for kill_at in sorted({*after, *range(0, len(steps), 3)}):
        killed_then_cut(world, phase, kill_at, chance)


def test_the_model_loses_what_is_not_flushed(tmp_path: Path) -> None:
    """A file that was renamed and not flushed may be empty; one in a folder not flushed, gone."""
    top = tmp_path / "disk"
    top.mkdir()
    recorder = Recorder(top)
    with recorder.watching():
        LocalBackend(top).publish("a/b", b"whole")
        os.mkdir(top / "c")
        (top / ".x.partial").write_bytes(b"text")
        os.rename(top / ".x.partial", top / "c" / "x")
    disk = Disk()
    for step in recorder.steps:
        disk.do(step)
    trees = list(disk.outcomes(random.Random(0)))
    assert all(tree["a/b"] == b"whole" for tree in trees)
    assert {"c" in tree for tree in trees} == {True, False}
    assert {tree.get("c/x") for tree in trees} >= {None, b""}
