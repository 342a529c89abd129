"""Whatever was made from rows says so once these rows are made anew, and not when rows join."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store, write_block
from fungistore.errors import MismatchError, StoppedError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.exchange.export import export_features
from fungistore.indexing.build import build_index
from fungistore.loff.evaluate import evaluate_loff
from fungistore.loff.evaluate_options import LoffOptions
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import Context
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store

ROWS, GROWN = 42, 46  # the last of the units of 16 rows is partly filled, before and after
VECTORS, LABELS = clustered(GROWN, 2, 6)
SPLITS = ["test" if row % 4 == 0 or row >= ROWS else "train" for row in range(GROWN)]
HEAD = TrainOptions(head="linear", epochs=1, name="h")
MADE = {"evals", "heads/set/h", "indexes/set/embeddings-cosine", "features.zarr/set/pca/p"}


def grow(root: Path, rows: int) -> Store:
    blocks = {"embeddings": VECTORS[:rows]}
    return make_store(root, blocks, LABELS[:rows], SPLITS[:rows])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a PCA, an index, a head and an evaluation, of which it then outgrows all."""
    store = grow(tmp_path / "s.fungi", ROWS)
    build_index(store.root)
    fit_pca(store.root, PcaOptions(dim=3, name="p"))
    train_loff(store.root, HEAD)
    run = CliRunner().invoke(app, ["eval", "knn", str(store.root), "--k", "3"])
    assert run.exit_code == 0, run.stderr
    return grow(store.root, GROWN)


def change(store: Store, *rows: int) -> None:
    """Make rows anew, with other values."""
    vectors = VECTORS.copy()
    vectors[list(rows)] *= -1
    write_block(store, "set", "embeddings", vectors)


def stale(store: Store) -> set[str]:
    found = status(store.root).stale
    assert {name for one in found for name in one.arrays} <= {"set/embeddings"}
    return {"evals" if one.where.startswith("evals/") else one.where for one in found}


def test_growth_makes_nothing_stale(store: Store) -> None:
    """Rows that joined the last unit are no change of those before."""
    assert stale(store) == set()
    assert verify_store(store.root).findings == ()


def test_a_row_of_the_last_unit_is_noticed_by_all(store: Store) -> None:
    """Status and verify name them; only the index, which is searched, is in error."""
    change(store, ROWS - 1)
    assert stale(store) == MADE
    shown = CliRunner().invoke(app, ["status", str(store.root)])
    assert "heads/set/h: rows of set/embeddings were made anew since" in shown.stdout
    findings = verify_store(store.root).findings
    kinds = {finding.kind: finding.severity for finding in findings}
    assert kinds == {
        "index-stale": "error",
        "pca-stale": "warning",
        "head-stale": "warning",
        "eval-stale": "warning",
    }
    assert all("made anew since" in finding.found for finding in findings)


def test_a_row_that_they_have_not_seen_is_no_change_to_them(store: Store) -> None:
    """Rows that joined later may be made anew."""
    change(store, GROWN - 1)
    assert stale(store) == set()


def test_a_pca_is_kept_with_a_word(store: Store) -> None:
    """It goes on with what it was fitted on, and says so; --restart fits another."""
    change(store, 1)
    said: list[str] = []
    options = PcaOptions(dim=3, name="p")
    before = fit_pca(store.root, options, context=Context(Notices(said)))
    assert any("set/embeddings that were made anew since: it is kept" in line for line in said)
    after = fit_pca(store.root, options, restart=True)
    assert after.fingerprint != before.fingerprint
    assert "features.zarr/set/pca/p" not in stale(store)


def test_a_head_says_it_when_tested_and_is_kept_with_a_word(store: Store) -> None:
    """Also where it is a test row of a unit with training rows; --restart trains another."""
    change(store, 4)
    said: list[str] = []
    evaluate_loff(store.root, LoffOptions(), context=Context(Notices(said)))
    assert any("'h' was trained on rows that were made anew since" in line for line in said)
    train_loff(store.root, HEAD, context=Context(Notices(said)))
    assert any("were made anew since: it is kept as it is" in line for line in said)
    train_loff(store.root, HEAD, restart=True)
    assert "heads/set/h" not in stale(store)


def test_a_head_that_is_not_done_does_not_go_on(store: Store) -> None:
    """Going on would mix two trainings."""
    asked = iter(range(100))
    longer = replace(HEAD, name="two", epochs=3)
    with pytest.raises(StoppedError):
        train_loff(store.root, longer, context=Context(stop=lambda: next(asked) > 0))
    change(store, 1)
    with pytest.raises(MismatchError, match="units of set/embeddings with rows of the training"):
        train_loff(store.root, longer)


def test_a_training_does_not_mind_test_rows(tmp_path: Path) -> None:
    """Only units with rows that it trains or validates on count."""
    splits = ["test" if row < 16 else "train" for row in range(ROWS)]
    store = make_store(tmp_path / "s", {"embeddings": VECTORS[:ROWS]}, LABELS[:ROWS], splits)
    train_loff(store.root, HEAD)
    changed = VECTORS[:ROWS].copy()
    changed[3] *= 2
    write_block(store, "set", "embeddings", changed)
    assert train_loff(store.root, HEAD).epochs == 1
    assert stale(store) == set()


def test_results_and_exports_name_their_rows(store: Store) -> None:
    """A digest that growth, or another value, changes."""
    found = []
    for rows in ((), (1,)):
        change(store, *rows)
        score = evaluate_knn(store.root, KnnOptions(k=3)).scores[0]
        file = store.root.parent / "x.parquet"
        export_features(store.root, file, overwrite=True)
        provenance = json.loads(pq.read_metadata(file).metadata[b"fungi"])
        digest = score.contents["set/embeddings"].digest
        assert provenance["contents"] == {"set/embeddings": digest}
        found.append(digest)
    assert len(set(found)) == 2
    assert np.sum([units * rows for units, rows in score.contents["set/embeddings"].units]) == GROWN
