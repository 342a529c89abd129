"""A PCA of many workers is that of one process, bit for bit, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

import memory_backend
from engine_world import OddTurns, files_of
from feature_world import Notices, clustered, make_store
from fungistore.engines.engine import Local, Place
from fungistore.errors import MismatchError, StoppedError, StoreError, UsageError
from fungistore.machine.context import Context
from fungistore.matrices.products import gram, product
from fungistore.pca.moments import LEAST_GROUPS, MOST_GROUPS, groups_of
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.backend import BACKENDS, open_backend
from fungistore.store.locks import Slice
from fungistore.store.scratch import WORK, Scratch
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from plugins import install, write_plugin

ROWS, DIM = 10_000, 100
OPTIONS = PcaOptions(dim=16, name="p")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Features of several groups of units, as wide as makes a BLAS divide sums by threads."""
    root = tmp_path_factory.mktemp("features") / "s.fungi"
    vectors, labels = clustered(ROWS, 3, DIM, seed=4)
    vectors[5] = np.nan
    make_store(root, {"embeddings": vectors}, labels, unit_rows=256)
    return root


@pytest.fixture
def root(features, tmp_path):
    return shutil.copytree(features, tmp_path / "s.fungi")


@pytest.fixture(scope="module")
def alone(features, tmp_path_factory):
    """The files, and the result, of one process."""
    root = shutil.copytree(features, tmp_path_factory.mktemp("alone") / "s.fungi")
    done = fit_pca(root, OPTIONS)
    return files_of(root), done


@pytest.mark.parametrize("slices", [1, 3, 7])
def test_workers_give_the_pca_of_one_process(root, alone, slices):
    """However many slices, in whatever order, and some of them lost or done twice."""
    done = fit_pca(root, OPTIONS, engine=OddTurns(slices))
    files, expected = alone
    assert files_of(root) == files
    assert 0 < done.units_computed <= expected.units_computed  # a lost worker tells nothing
    assert replace(done, store=expected.store, units_computed=40) == expected
    assert verify_store(root).findings == ()


@pytest.mark.slow
def test_processes_give_the_pca_of_one_process(root, alone):
    """Workers with half of the cores each add up the same sums."""
    assert (
        CliRunner()
        .invoke(app, ["pca", str(root), "--dim", "16", "--name", "p", "--processes", "2"])
        .exit_code
        == 0
    )
    assert files_of(root) == alone[0]


def test_a_store_that_is_no_directory_is_divided_too(root, alone, tmp_path, monkeypatch):
    """What workers leave goes through the backend alone, as it does at a URL."""
    source = Path(memory_backend.__file__).read_text(encoding="utf-8")
    points = {"fungistore.backends": {"dict": "memory_work:open_url"}}
    write_plugin(tmp_path / "plugin", "memory_work", source, points)
    install(monkeypatch, tmp_path / "plugin", "memory_work", BACKENDS)
    where = "dict://divided.fungi"
    place = open_backend(where)
    place.make_room()
    for name, data in files_of(root).items():
        place.publish(name, data)
    done = fit_pca(where, OPTIONS, engine=OddTurns())
    assert done.fingerprint == alone[1].fingerprint
    assert {name: place.read(name) for name in place.objects} == alone[0]


def test_a_stopped_run_goes_on_with_what_its_workers_left(root, alone, monkeypatch):
    """What is made stays through the stop, is found by verify, and goes at last."""
    steps = count()
    with pytest.raises(StoppedError):
        fit_pca(root, OPTIONS, engine=Once(), context=Context(stop=lambda: next(steps) > 3))
    (left,) = (root / WORK).iterdir()
    pieces = {path.name: path.stat().st_mtime_ns for path in left.iterdir()}
    assert "00000000" in pieces
    assert [one.kind for one in verify_store(root).findings] == ["orphan"]
    seen = {}
    remove = Scratch.remove

    def look(scratch):
        seen.update({path.name: path.stat().st_mtime_ns for path in left.iterdir()})
        remove(scratch)

    monkeypatch.setattr(Scratch, "remove", look)
    fit_pca(root, OPTIONS, engine=Once())
    assert {name: seen[name] for name in pieces if name != "rows"} == {
        name: time for name, time in pieces.items() if name != "rows"
    }
    assert files_of(root) == alone[0]
    assert not left.exists()


def test_what_a_run_left_is_swept_by_any_other(root):
    """It is not read again by anybody: one process makes it all itself."""
    scratch = Scratch.of(Store.open(root).backend, "pca-of-nobody")
    scratch.write("00000000", {"mean": np.zeros(3)})
    fit_pca(root, OPTIONS)
    assert list((root / WORK).iterdir()) == []


def test_a_damaged_piece_is_an_error_and_is_made_again(root):
    """A flipped bit changes the digest; whoever has the slice makes it once more."""
    scratch = Scratch.of(Store.open(root).backend, "x")
    scratch.write("a", {"mean": np.arange(3.0)})
    assert scratch.read("a")["mean"].tolist() == [0, 1, 2]
    path = root / WORK / "x" / "a"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="missing or damaged"):
        scratch.read("a")
    assert not scratch.holds("a")
    path.write_bytes(b"")
    assert not scratch.holds("a")


def test_a_worker_that_comes_late_leaves_another_pca_alone(root, alone):
    """What it has opened was restarted between its slices: it writes nothing into the new one."""
    other = replace(OPTIONS, fit_split="all", holdout=0.5)

    class Actor:
        def run(self, work, context):
            if "transform" not in work.function:
                return Local().run(work, context)
            run = work.open(Place(), context)
            run(Slice(0, 2))
            fit_pca(root, other, restart=True)
            self.before = files_of(root)
            return [run(Slice(1, 2))]

    actor = Actor()
    with pytest.raises(MismatchError, match="fitted anew meanwhile"):
        fit_pca(root, OPTIONS, engine=actor)
    assert files_of(root) == actor.before != alone[0]
    assert verify_store(root).findings == ()


def test_processes_started_by_hand_are_refused(root):
    """Nobody would add up what they make; nothing is written."""
    before = files_of(root)
    with pytest.raises(UsageError, match="started by hand"):
        fit_pca(root, OPTIONS, engine=Local(Slice(0, 2)))
    done = CliRunner().invoke(app, ["pca", str(root), "--worker-id", "0", "--num-workers", "2"])
    assert (done.exit_code, "--processes" in done.stderr) == (2, True)
    assert files_of(root) == before


def test_a_scheduler_that_starts_several_does_not_change_one(root, alone, monkeypatch):
    """A step of a job array fits its own store, whatever number the scheduler gave it."""
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    done = CliRunner().invoke(app, ["pca", str(root), "--dim", "16", "--name", "p", "--json"])
    assert json.loads(done.stdout)["fingerprint"] == alone[1].fingerprint
    assert files_of(root) == alone[0]


def test_a_random_projection_is_divided_too(root, tmp_path, features):
    """There is nothing to fit; its units are."""
    other = shutil.copytree(features, tmp_path / "other.fungi")
    asked = PcaOptions(reduction="random", dim=8, name="r")
    fit_pca(root, asked)
    said = []
    fit_pca(other, asked, engine=OddTurns(), context=Context(Notices(said)))
    assert files_of(other) == files_of(root)


@pytest.mark.parametrize(
    ("rows", "unit_rows", "width"),
    [(3, 4, 8), (4096, 64, 8), (1_000_000, 64, 768), (1_000_000, 64, 30_000), (70_001, 7, 384)],
)
def test_groups_are_whole_units_and_not_too_many(rows, unit_rows, width):
    """Every row is in one group; a unit is in one; wide rows have few groups."""
    numbers = np.flatnonzero(np.random.default_rng(0).random(rows * 2) < 0.5)
    groups = groups_of(numbers, unit_rows, width)
    assert np.concatenate(groups).tolist() == numbers.tolist()
    units = [set((group // unit_rows).tolist()) for group in groups]
    assert sum(map(len, units)) == len(set().union(*units))
    assert len(groups) <= (LEAST_GROUPS if width == 30_000 else MOST_GROUPS)
    assert rows < 100_000 or len(groups) >= LEAST_GROUPS - 1


@pytest.mark.parametrize("shape", [(3, 5), (700, 100), (513, 1537), (300, 513)])
def test_products_do_not_depend_on_threads(shape):
    """Equal bits with 1, 2 and 3 threads, and the numbers of NumPy's own products."""
    rows = np.random.default_rng(1).normal(size=shape)
    narrow, columns = rows.astype(np.float32), rows[:77].T.astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.append((gram(rows), product(narrow, columns)))
    for other in found[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in found[0]]
    np.testing.assert_allclose(found[0][0], rows.T @ rows, atol=1e-9)
    exact = narrow.astype(np.float64) @ columns
    np.testing.assert_allclose(found[0][1], exact, rtol=2e-6, atol=2e-4)


class Once:
    """One worker that does everything, once."""

    def run(self, work, context):
        return Local().run(work, context)
