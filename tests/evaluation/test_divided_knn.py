"""Test rows classified by workers give the scores of one process, to the last digit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

import fungistore.evaluation.knn as knn
import fungistore.matrices.blocks as blocks
from engine_world import OddTurns, files_of
from feature_world import clustered, make_store
from fungistore.engines.engine import Local
from fungistore.errors import MismatchError, StoppedError, UsageError
from fungistore.evaluation.knn import evaluate_knn, query_blocks
from fungistore.evaluation.options import KnnOptions
from fungistore.machine.context import Context
from fungistore.matrices.products import TILE_ROWS
from fungistore.store.locks import Slice
from fungistore.store.scratch import WORK

OPTIONS = {
    "majority": KnnOptions(k=5, holdout=0.5),
    "weighted": KnnOptions(k=5, vote="weighted", holdout=0.5),
    "combinations": KnnOptions(
        k=3,
        combinations="all",
        pca_dims=(None, 8),
        holdout=0.5,
        seeds=2,
        features=("embeddings", "kl"),
    ),
    "random": KnnOptions(k=3, reduction="random", pca_dims=(6,), holdout=0.5),
    "shots": KnnOptions(k=20, shots=(1, "all"), holdout=0.5),
}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Classes that lie in each other, so that every neighbour counts; a row cannot be used."""
    root = tmp_path_factory.mktemp("knn") / "s.fungi"
    vectors, labels = clustered(5000, 4, 24, seed=4, noise=3)
    vectors[5] = np.nan
    arrays = {"embeddings": vectors, "gradients/kl": vectors[:, ::-1].copy()}
    make_store(root, arrays, labels, unit_rows=64)
    return root


@pytest.fixture
def root(features, tmp_path, monkeypatch):
    """A store that is read some units at a time."""
    monkeypatch.setattr(blocks, "STREAM_BYTES", 200_000)
    return shutil.copytree(features, tmp_path / "s.fungi")


@pytest.mark.parametrize("name", OPTIONS)
def test_workers_give_the_scores_of_one_process(root, name):
    """Metrics, intervals, differences and protocols; nothing is left in the store."""
    before = files_of(root)
    alone = evaluate_knn(root, OPTIONS[name])
    divided = evaluate_knn(root, OPTIONS[name], engine=OddTurns())
    assert divided.to_json() == alone.to_json()
    assert divided == alone
    assert files_of(root) == before
    assert list((root / WORK).iterdir()) == []


def test_each_row_gets_what_one_process_says_of_it(root, monkeypatch):
    """Ranked labels and shares of the votes, row by row, of vectors that went through a PCA."""
    seen = []
    averaged = knn.Predictions.joined

    def keep(parts):
        seen.append(averaged(parts))
        return seen[-1]

    monkeypatch.setattr(knn.Predictions, "joined", keep)
    options = replace(OPTIONS["weighted"], pca_dims=(8,))
    evaluate_knn(root, options)
    (alone,) = seen
    evaluate_knn(root, options, engine=OddTurns(4))
    divided = seen[-1]
    for name in ("ranked", "chances", "columns"):
        assert getattr(divided, name).tobytes() == getattr(alone, name).tobytes()


def test_a_stopped_run_goes_on(root):
    """Blocks that were classified are kept, and not classified again."""
    options, steps = OPTIONS["majority"], count()
    with pytest.raises(StoppedError):
        evaluate_knn(root, options, engine=Once(), context=Context(stop=lambda: next(steps) > 4))
    (left,) = (root / WORK).iterdir()
    kept = {path.name for path in left.iterdir() if not path.name.startswith("map")}
    assert kept
    told = Once()
    assert evaluate_knn(root, options, engine=told).scores == evaluate_knn(root, options).scores
    assert told.made[0]["made"] + len(kept) == len(told.names)


def test_a_run_that_ends_between_its_scores_lets_go_of_the_store(root):
    """Also while somebody keeps its error, as a notebook does: the same command goes on."""

    class Told(Once):
        is_done = False

        def run(self, work, context):
            found = super().run(work, context)
            self.is_done = True
            return found

    options, told, steps = replace(OPTIONS["majority"], seeds=3), Told(), count()
    read = Context(stop=lambda: told.is_done and next(steps) >= len(told.names) // 3)
    with pytest.raises(StoppedError) as kept:
        evaluate_knn(root, options, engine=told, context=read)
    assert "evaluate_table" in {one.name for one in kept.traceback}
    assert evaluate_knn(root, options, engine=Once()).scores == evaluate_knn(root, options).scores
    assert list((root / WORK).iterdir()) == []


def test_rows_that_change_meanwhile_are_refused(root):
    """A worker that opens another state of the store says so, rather than mix them."""

    class Late:
        def run(self, work, context):
            vectors, labels = clustered(5100, 4, 24, seed=4, noise=3)
            arrays = {"embeddings": vectors, "gradients/kl": vectors[:, ::-1].copy()}
            make_store(root, arrays, labels, unit_rows=64)
            return Local().run(work, context)

    with pytest.raises(MismatchError, match="the store has changed since"):
        evaluate_knn(root, OPTIONS["majority"], engine=Late())


def test_a_worker_that_cuts_otherwise_is_refused(root, monkeypatch):
    """As one of another version would: its blocks are not those that are put together."""

    class Other:
        def run(self, work, context):
            monkeypatch.setattr(blocks, "STREAM_BYTES", 32_000_000)
            return Local().run(work, context)

    with pytest.raises(MismatchError, match="another version"):
        evaluate_knn(root, OPTIONS["majority"], engine=Other())


def test_one_of_several_started_by_hand_is_refused(root):
    with pytest.raises(UsageError, match="started by hand"):
        evaluate_knn(root, OPTIONS["majority"], engine=Local(Slice(0, 2)))


@pytest.mark.parametrize(("rows", "stream"), [(5, 64), (100_000, 1000), (100_000, 33_333), (3, 1)])
def test_blocks_are_cut_where_products_and_reads_are(rows, stream):
    """Together they are all rows; a block begins with a read, or whole tiles after its begin."""
    numbers = np.flatnonzero(np.random.default_rng(0).random(2 * rows) < 0.5)
    found = query_blocks(numbers, stream)
    assert np.concatenate(found).tolist() == numbers.tolist()
    assert len(found) <= knn.MOST_BLOCKS + 1
    for block in found[1:]:
        start = np.searchsorted(numbers, block[0] // stream * stream)
        assert (np.searchsorted(numbers, block[0]) - start) % TILE_ROWS == 0


@pytest.mark.slow
def test_the_command_divides(features, tmp_path):
    """`--processes 2 --json` prints what one process prints; other evaluations have no engine."""
    found, root = [], shutil.copytree(features, tmp_path / "s.fungi")
    for flags in ([], ["--processes", "2"]):
        words = ["eval", "knn", str(root), "--holdout", "0.5", "--pca-dim", "8", "--json"]
        done = CliRunner().invoke(app, [*words, *flags])
        assert done.exit_code == 0, done.output
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert CliRunner().invoke(app, ["eval", "linear", str(root), "--processes", "2"]).exit_code == 2


class Once:
    """One worker that does everything, and keeps what there was to do."""

    def run(self, work, context):
        self.names = range(work.arguments["pieces"]["count"])
        self.made = Local().run(work, context)
        return self.made
