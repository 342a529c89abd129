"""Metadata of any content: every reader gives what is there, or a FungiError, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_world import clustered, make_store
from fungistore.errors import FungiError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.indexing.build import build_index
from fungistore.indexing.opening import open_index
from fungistore.indexing.options import IndexOptions
from fungistore.indexing.record import index_folders, read_record
from fungistore.loff.head_folder import head_names, head_run
from fungistore.loff.options import TrainOptions
from fungistore.loff.stored import open_head
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET
from fungistore.matrices.blocks import open_features
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca, load_pca
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.training.checkpoint import load_tensors
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

PATTERNS = (
    "store.json",
    "commits/set/*/00000001.json",
    "features.zarr/zarr.json",
    "features.zarr/set/zarr.json",
    "features.zarr/set/embeddings/zarr.json",
    "features.zarr/set/pca/four/zarr.json",
    "setups/*/config.json",
    "setups/*/checksums.json",
    "indexes/set/*/index.json",
    "heads/set/*/config.json",
    "heads/set/*/state.json",
    "evals/*.json",
    "failures.jsonl",
)
QUICK, THOROUGH = 3, 100
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A store with one of everything that has metadata."""
    root = tmp_path_factory.mktemp("fuzz") / "s.fungi"
    vectors, labels = clustered(24, 2, 4)
    store = make_store(root, {"embeddings": vectors}, labels, unit_rows=8)
    fit_pca(root, PcaOptions(dim=2, name="four"))
    build_index(root, IndexOptions(name="exact"))
    evaluate_knn(root, KnnOptions(k=3, holdout=0.25)).save(QUIET)
    settings = {"head": "linear", "epochs": 1, "holdout": 0.25, "dtype": "float32", "name": "h"}
    train_loff(root, TrainOptions(**settings))
    line = {"row": 3, "uri": "3", "error": "E", "message": "m", "feature_set": "set"}
    (store.root / "failures.jsonl").write_text(json.dumps(line) + "\n")
    return root


def readers(root: Path) -> list[Callable[[], object]]:
    """Every way to read a store's metadata."""

    def heads() -> None:
        store = Store.open(root)
        for name in head_names(store, "set"):
            open_head(store, "set", name).is_stale  # noqa: B018

    def state() -> None:
        run = head_run(Store.open(root), "set", "h")
        run.config()
        load_tensors(run, run.progress())

    def records() -> None:
        for folder in index_folders(Store.open(root)):
            read_record(folder)

    return [
        lambda: Store.open(root).arrays("set"),
        lambda: Store.open(root).failures(),
        lambda: Store.open(root).samples.rows(0, 99),
        lambda: status(root),
        lambda: open_features(Store.open(root), feature_set="set").coverage(),
        lambda: open_features(Store.open(root), feature_set="set").load(),
        lambda: load_pca(Store.open(root), "set", "four"),
        records,
        lambda: open_index(Store.open(root)),
        state,
        heads,
        lambda: verify_store(root),
        lambda: repair_store(root),
    ]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["/", "..", "\0", "a/b", "NaN", "float16", "gzip", 0, 1, -1]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=5,
)


@st.composite
def mutated(draw, data: bytes) -> bytes:
    """Bytes of a metadata file with something done to them."""
    kind = draw(st.sampled_from(["value", "value", "value", "drop", "add", "bytes", "cut", "deep"]))
    if kind == "bytes":
        return draw(st.binary(max_size=64))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if kind == "deep":
        return b"[" * 100_000
    document = json.loads(data)
    node, path = document, []
    while isinstance(node, dict | list) and node and (not path or draw(st.booleans())):
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        path.append((node, draw(st.sampled_from(keys))))
        node = node[path[-1][1]]
    holder, key = path[-1]
    if kind == "drop":
        del holder[key]
    elif kind == "add" and isinstance(node, dict):
        node[draw(st.text(max_size=5))] = draw(values)
    else:
        holder[key] = draw(values)
    return json.dumps(document).encode()


def check(full, tmp_path, pattern, draw):
    path = draw(st.sampled_from(sorted(full.glob(pattern))))
    data = draw(mutated(path.read_bytes()))
    root = tmp_path / "s.fungi"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(full, root)
    (root / path.relative_to(full)).write_bytes(data)
    for reader in readers(root):
        try:
            reader()
        except FungiError as error:
            assert str(error)
    if Store.exists(root):
        json.dumps(verify_store(root).to_json())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_metadata_of_any_content_give_a_fungi_error(full, tmp_path, pattern):
    """A few changes of each file; the error can be printed, and a verification written as JSON."""

    @settings(max_examples=QUICK, deadline=None, suppress_health_check=SHARED)
    @given(st.data())
    def run(data):
        check(full, tmp_path, pattern, data.draw)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_metadata_of_any_content_give_a_fungi_error_at_length(full, tmp_path, pattern):
    """A hundred changes of each file."""

    @settings(max_examples=THOROUGH, deadline=None, suppress_health_check=SHARED)
    @given(st.data())
    def run(data):
        check(full, tmp_path, pattern, data.draw)

    run()
