"""Kills: whatever a process was doing when it died, the store is whole and the work goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import crash_points
import numpy as np
import pytest
import steady_writer
from crash_points import CONFIG, OPERATIONS, TENSORS, UNIT_ROWS, VALUES

from fungistore.fingerprint import fingerprint
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

FOLDER = Path(__file__).parent
KILLS = 20


@pytest.fixture(scope="module")
def copies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A copy of the store for each step at which the operation was killed, then a finished one."""
    folder = tmp_path_factory.mktemp("killed")
    run = subprocess.run(
        [sys.executable, FOLDER / "crash_points.py", request.param, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    *killed, finished = sorted(path for path in folder.iterdir() if path.name != "before")
    assert len(killed) >= 2
    return [*killed, finished]


def of(operation: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("copies", [operation], indirect=True)


def orphans(root: Path) -> list[Path]:
    return list(root.rglob("*.partial"))


# --- killed at every step


@of("create")
def test_making_a_store_can_be_repeated(copies: list[Path]) -> None:
    """A kill while an empty store is made leaves nothing that the same command trips over."""
    for root in copies:
        root.mkdir(exist_ok=True)
        assert len(Store.open_or_create(root).samples) == 0


@of("add source")
def test_adding_a_source_is_all_or_nothing(copies: list[Path]) -> None:
    """After a kill all samples are there or none, and adding them again gives the same rows."""
    counts = [len(Store.open(root).samples) for root in copies]
    assert counts == sorted(counts)
    assert set(counts) == {0, 5}
    check_samples(copies, "add source")


@of("grow source")
def test_growing_a_source_is_all_or_nothing(copies: list[Path]) -> None:
    """After a kill while samples are appended the old ones are there, or old and new ones."""
    counts = [len(Store.open(root).samples) for root in copies]
    assert counts == sorted(counts)
    assert set(counts) == {5, 8}
    check_samples(copies, "grow source")


def check_samples(copies: list[Path], name: str) -> None:
    finished = Store.open(copies[-1])
    expected = finished.samples.rows(0, len(finished.samples))
    for root in copies:
        rows = Store.open(root).samples.rows(0, 100)
        assert rows == expected[: len(rows)]
        OPERATIONS[name][1](root)
        again = Store.open(root)
        assert again.samples.rows(0, 100) == expected
        assert again.manifest.labels == finished.manifest.labels
        again.sweep()
        assert orphans(root) == []


@of("freeze setup")
def test_freezing_a_setup_is_all_or_nothing(copies: list[Path]) -> None:
    """After a kill a setup is whole or not there; freezing it again completes it."""
    key = fingerprint(CONFIG)
    frozen = [Store.open(root).setups.has(key) for root in copies]
    assert frozen == sorted(frozen)
    for root, done in zip(copies, frozen, strict=True):
        store = Store.open(root)
        assert done or not (root / "setups" / key / "config.json").exists()
        store.setups.freeze(CONFIG, TENSORS, {"options": {"seed": 1}})
        assert store.setups.config(key) == CONFIG
        np.testing.assert_array_equal(
            store.setups.tensors(key, "tensors")["head"], TENSORS["tensors"]["head"]
        )
        store.sweep()
        assert [path.name for path in (root / "setups").iterdir()] == [key]


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")  # has its own test
@of("create arrays")
def test_creating_arrays_can_be_repeated(copies: list[Path]) -> None:
    """After a kill while arrays are created, the same command finds or makes all of them."""
    for root in copies:
        crash_points.arrayed(root)
        assert sorted(Store.open(root).arrays("vit")) == ["embeddings", "gradients/kl"]
        assert Store.open(root).feature_sets() == ["vit"]


@of("publish")
def test_publishing_is_resumed(copies: list[Path]) -> None:
    """After a kill every committed unit is whole, and going on from there commits the others."""
    check_units(copies, "publish", old_rows=0, new_rows=crash_points.OLD_ROWS)


@of("complete")
def test_completing_a_unit_is_resumed(copies: list[Path]) -> None:
    """After a kill while a unit is completed, its old rows are committed, or old and new ones."""
    check_units(copies, "complete", old_rows=crash_points.OLD_ROWS, new_rows=len(VALUES))


def check_units(copies: list[Path], name: str, old_rows: int, new_rows: int) -> None:
    done = []
    for root in copies:
        arrays = Store.open(root).arrays("vit")
        assert sorted(arrays) == ["embeddings", "gradients/kl"]
        total = 0
        for array in arrays.values():
            commits = array.commits()
            committed = sum(commit.rows for commit in commits.values())
            assert committed >= old_rows
            total += committed
            assert all(map(array.holds, commits.values()))
            for unit, commit in commits.items():
                start = unit * UNIT_ROWS
                expected = VALUES[start : start + commit.rows]
                np.testing.assert_array_equal(array.read(start, start + commit.rows), expected)
        done.append(total)
        OPERATIONS[name][1](root)
        Store.open(root).sweep()
        assert orphans(root) == []
        for array in Store.open(root).arrays("vit").values():
            assert sum(commit.rows for commit in array.commits().values()) == new_rows
            np.testing.assert_array_equal(array.read(0, new_rows), VALUES[:new_rows])
    assert done == sorted(done)
    assert done[-1] == 2 * new_rows


@of("remove arrays")
def test_removing_leaves_nothing_that_looks_done(copies: list[Path]) -> None:
    """Records go first: after a kill no array has a record that its chunk might meet again."""
    for root in copies:
        for name in ("embeddings", "gradients/kl"):
            whole = (root / "features.zarr/vit" / name / "c/0/0").is_file() and (
                root / "features.zarr/vit" / name / "c/1/0"
            ).is_file()
            assert whole or not list((root / "commits/vit" / name).glob("*"))


@of("compact failures")
def test_compacting_failures_loses_none(copies: list[Path]) -> None:
    """After a kill while the failures are rewritten, the old file or the new one is there."""
    for root in copies:
        assert [failure.row for failure in Store.open(root).failures()] == [2, 7]


# --- killed at any moment


@pytest.mark.slow
@pytest.mark.parametrize("codec", steady_writer.CODECS)
def test_a_writer_killed_at_random_moments(tmp_path: Path, codec: str) -> None:
    """SIGKILL 20 times: every record's chunk holds, nothing is torn, the final array is right."""
    moments = random.Random(codec)
    seen: dict[int, int] = {}
    for kill in range(KILLS + 1):
        writer = subprocess.Popen(
            [sys.executable, FOLDER / "steady_writer.py", tmp_path, codec],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        if kill < KILLS:
            time.sleep(moments.uniform(0, 0.4))
            os.kill(writer.pid, signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL, "the writer came through: give it more units"
        else:
            assert writer.wait() == 0
        writer.stdout.close()
        array = UnitArray(LocalBackend(tmp_path), steady_writer.NAME)
        commits = array.commits()
        records = list((tmp_path / "commits" / steady_writer.NAME).glob("*.json"))
        assert len(records) == len(commits), "a record went ahead of its chunk"
        for unit, commit in commits.items():
            assert commit.rows >= seen.get(unit, 0), "a committed row was lost"
            if commit.rows != seen.get(unit):
                assert array.holds(commit)
                start = unit * steady_writer.UNIT_ROWS
                np.testing.assert_array_equal(
                    array.read(start, start + commit.rows),
                    steady_writer.rows(start, start + commit.rows),
                )
        seen = {unit: commit.rows for unit, commit in commits.items()}
    assert set(seen.values()) == {steady_writer.UNIT_ROWS}
    assert len(seen) == steady_writer.UNITS
    for unit in range(steady_writer.UNITS):
        start, stop = unit * steady_writer.UNIT_ROWS, (unit + 1) * steady_writer.UNIT_ROWS
        np.testing.assert_array_equal(array.read(start, stop), steady_writer.rows(start, stop))
    assert all(map(array.holds, array.commits().values()))
