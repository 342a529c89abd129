"""The schema: its document says what the files have, old stores open, newer majors do not."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import clustered, make_store, write_block
from fungistore.errors import StoreError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.evaluation.result import Evaluation, Score
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.indexing.record import IndexRecord, StoredFile
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET
from fungistore.matrices.blocks import open_features
from fungistore.pca.stage import TENSORS as PCA_TENSORS
from fungistore.pca.stage import PcaOptions, fit_pca
from fungistore.store.commit import Commit
from fungistore.store.failures import Failure
from fungistore.store.item_digests import ItemDigests
from fungistore.store.locks import Claim
from fungistore.store.manifest import SCHEMA_VERSION, Manifest, newer_minor, say_newer_minor
from fungistore.store.masks import (
    BLOCK_SCHEMA,
    MaskBlock,
    MasksRecord,
    write_mask_block,
    write_masks_record,
)
from fungistore.store.samples import SCHEMA as COLUMNS
from fungistore.store.samples import Part
from fungistore.store.schema import schema
from fungistore.store.store import Store
from fungistore.training.run_folder import Progress

DOCUMENT = Path(__file__).parents[2] / "docs" / "schema.md"
MAJOR, MINOR = SCHEMA_VERSION
runner = CliRunner()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with everything that later stages add."""
    root = tmp_path_factory.mktemp("schema") / "s.fungi"
    vectors, labels = clustered(64, 2, 8)
    store = make_store(root, {"embeddings": vectors, "gradients/kl": vectors}, labels)
    store.add_failures([Failure(3, "x.jpg", "ImageError", "broken", "set")])
    ItemDigests(store.backend, "set").add(0, 0, np.arange(8, dtype=np.uint64), 8)
    fit_pca(root, PcaOptions(dim=4, name="four"))
    build_index(root, IndexOptions(name="exact"))
    build_index(root, IndexOptions(name="graph", factory="HNSW8"))
    knn = evaluate_knn(root, KnnOptions(k=3, holdout=0.25))
    knn.save(QUIET)
    settings = {"head": "linear", "epochs": 1, "holdout": 0.25, "dtype": "float32", "name": "h"}
    train_loff(root, TrainOptions(**settings))
    with store.writing():
        block = write_mask_block(store.folder(), 0, BLOCK_SCHEMA.empty_table())
        write_masks_record(store.folder(), MasksRecord(("a",), True, 255, blocks=(block,)))
    return root


@pytest.fixture
def store(full: Path, tmp_path: Path) -> Store:
    """A copy of it."""
    shutil.copytree(full, tmp_path / "s.fungi")
    return Store.open(tmp_path / "s.fungi")


def edit(root: Path, version: tuple[int, int], **more: object) -> None:
    path = root / "store.json"
    document = json.loads(path.read_bytes()) | {"schema": list(version)} | more
    path.write_text(json.dumps(document))


def described(path: str) -> set[str]:
    kind = next(kind for kind in schema().files if kind.path.endswith(path))
    return {field.name for field in kind.fields}


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


# --- the document


def test_the_page_in_docs_is_the_schema() -> None:
    """docs/schema.md is made from fungistore/store/layout.py; make it anew after a change."""
    assert DOCUMENT.read_text(encoding="utf-8") == schema().to_markdown()


def test_status_prints_the_schema() -> None:
    """`fungi status --schema` prints that page without a store, and the same as data."""
    shown = runner.invoke(app, ["status", "--schema"])
    assert (shown.exit_code, shown.stdout) == (0, schema().to_markdown())
    document = json.loads(runner.invoke(app, ["status", "--schema", "--json"]).stdout)
    assert document["version"] == list(SCHEMA_VERSION)
    assert "store.json" in {kind["path"] for kind in document["files"]}


def test_status_without_a_store_is_usage() -> None:
    """STORE may only be left out with --schema; the error says so."""
    refused = runner.invoke(app, ["status"])
    assert refused.exit_code == 2
    assert "--schema" in refused.stderr


def test_every_file_of_a_store_is_described(full: Path) -> None:
    """PCA, indexes, heads and evaluations included: no file is unknown to the schema."""
    paths = [p.relative_to(full).as_posix() for p in full.rglob("*") if p.is_file()]
    assert [path for path in paths if schema().kind_of(path) is None] == []
    found = {kind.path for path in paths if (kind := schema().kind_of(path))}
    rare = {".locks/<name>.json", "<file>.partial"}  # of writers that are at work, or were killed
    optional = ("tensors.safetensors", "bank.<name>.safetensors", "options.json", "made.json")
    optional += ("<events>", "told.json", "removed.parquet", "answers/<model>.jsonl")
    optional += ("bank.json", "<digest>.faiss", "/bank.safetensors", "latents.<start>.safetensors")
    optional += ("/seen.safetensors", "/items.npy", "/seen.npy")
    optional += ("/.records", "copy.json")  # at a URL, and of a copy that has not ended
    expected = {kind.path for kind in schema().files if not kind.path.endswith(optional)}
    expected -= {path for path in expected if path.startswith("adaptations/")}  # of models
    assert expected - rare <= found
    assert schema().kind_of("notes.txt") is None


def test_every_field_is_described(full: Path) -> None:
    """The lists of fields are those of the dataclasses and files that are written."""
    manifest = described("store.json")
    assert manifest == (
        (names(Manifest) - {"unknown"})
        | {"samples", "checksum"}
        | {f"parts[].{name}" for name in names(Part)}
    )
    assert described("<part>.parquet") == {*COLUMNS.names, "column.<name>"}
    assert described("<unit>.json") == names(Commit)
    assert described("failures.jsonl") == names(Failure)
    masks = {f"blocks[].{name}" for name in names(MaskBlock)} | names(MasksRecord) | {"checksum"}
    assert described("masks.json") == masks
    assert described("<block>.parquet") == {*BLOCK_SCHEMA.names}
    assert described(".locks/<name>.json") == names(Claim)
    index = {f"files.*.{name}" for name in names(StoredFile)} | names(IndexRecord) | {"checksum"}
    assert described("index.json") == index
    assert described("state.json") == names(Progress) | {"checksum", "checksums"}
    scores = {f"scores[].{name}" for name in names(Score)}
    assert described("<protocol>.json") == names(Evaluation) | scores | {"checksum"}
    head = json.loads((full / "heads/set/h/config.json").read_bytes())
    assert described("heads/<feature set>/<name>/config.json") == head.keys()
    (key,) = open_features(Store.open(full), pca="four").fingerprints.values()
    assert described("pca.safetensors") == Store.open(full).setups.tensors(key, PCA_TENSORS).keys()
    for path in full.glob("setups/*/config.json"):
        known = described("setups/<fingerprint>/config.json") | {"made"}  # of the tests' own
        assert json.loads(path.read_bytes()).keys() <= known


@pytest.mark.parametrize("path", ["store.json", "index.json", "state.json", "masks.json"])
def test_written_files_have_the_described_fields(full: Path, path: str) -> None:
    """What is on disk has the top-level fields of the document, and no others."""
    for file in full.rglob(path):
        top = {name for name in described(path) if "." not in name}
        assert json.loads(file.read_bytes()).keys() == top


# --- versions


def test_an_older_minor_version_opens_and_is_raised_by_a_writer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of an older minor version reads as it is; the next writer makes it one of this."""
    later = (MAJOR, MINOR + 1)
    monkeypatch.setattr("fungistore.store.manifest.SCHEMA_VERSION", later)
    monkeypatch.setattr("fungistore.store.store.SCHEMA_VERSION", later)
    path = store.root / "store.json"
    old = Store.open(store.root)
    assert old.manifest.schema == (MAJOR, MINOR)
    assert len(open_features(old, ["embeddings"]).load()[0]) == 64
    assert json.loads(path.read_bytes())["schema"] == [MAJOR, MINOR]
    with old.writing():
        pass
    assert Store.open(store.root).manifest.schema == later == old.manifest.schema
    assert Store.open(store.root).manifest.parts == old.manifest.parts


def test_a_newer_minor_version_is_read_and_written_and_said_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading and growing work, the newer number and fields stay, and one warning says so."""
    say_newer_minor.cache_clear()
    edit(store.root, (MAJOR, MINOR + 1), novelty={"a": 1})
    with caplog.at_level(logging.WARNING, "fungistore"):
        for _ in range(3):
            newer = Store.open(store.root)
    (said,) = caplog.messages
    assert f"{MAJOR}.{MINOR + 1}" in said
    assert len(open_features(newer, ["embeddings"]).load()[0]) == 64
    with newer.writing():
        write_block(newer, "set", "gradients/dino", np.ones((64, 3), np.float32))
    document = json.loads((store.root / "store.json").read_bytes())
    assert (document["schema"], document["novelty"]) == ([MAJOR, MINOR + 1], {"a": 1})


def test_versions_up_to_this_one_need_no_word() -> None:
    """Only a newer minor version is worth a sentence."""
    assert newer_minor((MAJOR, 0)) is None
    assert newer_minor(SCHEMA_VERSION) is None
    assert "newer" in str(newer_minor((MAJOR, MINOR + 1)))


@pytest.mark.parametrize(("major", "hint"), [(MAJOR + 1, "--upgrade"), (MAJOR - 1, "a new store")])
def test_another_major_version_is_refused_untouched(store: Store, major: int, hint: str) -> None:
    """Exit 5, both versions, what to install; the file stays as it is."""
    edit(store.root, (major, 0))
    before = (store.root / "store.json").read_bytes()
    with pytest.raises(StoreError, match="major version") as caught:
        Store.open(store.root)
    said = str(caught.value)
    assert f"{MAJOR}.x" in said
    assert f"{major}.0" in said
    assert hint in said
    assert ("newer" in caught.value.what) == (major > MAJOR)
    shown = runner.invoke(app, ["status", str(store.root)])
    assert shown.exit_code == 5
    assert (store.root / "store.json").read_bytes() == before
