"""Each stage tells an engine which store its workers have to see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_world import clustered, make_store
from fungistore.engines.engine import DividedWork, Local
from fungistore.engines.sight import look, refuse_other_sight
from fungistore.errors import FungiError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.fingerprint import Config
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.loff.options import HeadsOptions
from fungistore.loff.several import train_heads
from fungistore.machine.context import Context
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store


class Elsewhere:
    """One worker, which looks first whether another machine would be refused."""

    def __init__(self) -> None:
        self.asked: list[DividedWork] = []

    def run(self, work: DividedWork, context: Context) -> list[Config]:
        self.asked.append(work)
        sight = look(work)
        refuse_other_sight(sight, "this node")
        moved = f"{sight.store}-there"
        os.rename(str(sight.store), moved)
        Store.open_or_create(str(sight.store))
        with pytest.raises(FungiError, match="the store on another node is not the one"):
            refuse_other_sight(sight, "another node")
        Store.open(str(sight.store)).remove()
        os.rename(moved, str(sight.store))
        return Local().run(work, context)


STAGES: dict[str, tuple[int, Callable[[Path, Elsewhere], object]]] = {
    "pca": (2, lambda root, engine: fit_pca(root, PcaOptions(dim=4), engine=engine)),
    "index": (
        1,
        lambda root, engine: build_index(root, IndexOptions(factory="IVF4,Flat"), engine=engine),
    ),
    "knn": (
        1,
        lambda root, engine: evaluate_knn(root, KnnOptions(k=3, holdout=0.2), engine=engine),
    ),
    "verify": (1, lambda root, engine: verify_store(root, engine=engine)),
    "heads": (
        1,
        lambda root, engine: train_heads(
            root,
            HeadsOptions(head="linear", epochs=1, holdout=0.25, seeds=2, device="cpu"),
            engine=engine,
        ),
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_node_with_another_store_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than read other rows under the same name; and no more slices are made than pieces."""
    monkeypatch.setattr("fungistore.indexing.rows.STREAM_BYTES", 20_000)
    rows = 96 if name == "heads" else 6000
    vectors, labels = clustered(rows, 3, 8)
    root = tmp_path / "s.fungi"
    make_store(root, {"embeddings": vectors}, labels, unit_rows=256)
    engine, (count, stage) = Elsewhere(), STAGES[name]
    stage(root, engine)
    assert len(engine.asked) == count
    assert {work.store for work in engine.asked} == {str(root)}
    assert all(work.units for work in engine.asked)
