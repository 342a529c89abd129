"""A store from somebody else: its files lead nowhere, and none of them runs.

Image uris are the exception: they are what they are, and may name any file of the machine, which is
then read as an image and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hostile_world import Trap, assert_tame, edit, fungi, snapshot
from safetensors.numpy import save_file

from feature_world import clustered, make_store
from fungistore.errors import FungiError, UsageError
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.exchange.import_ import import_features
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.loff.options import PredictOptions, TrainOptions
from fungistore.loff.predict import predict_rows
from fungistore.loff.train import train_loff
from fungistore.machine.context import QUIET
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.store import Store
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one of everything."""
    root = tmp_path_factory.mktemp("hostile") / "s.fungi"
    vectors, labels = clustered(24, 2, 4)
    make_store(root, {"embeddings": vectors}, labels, unit_rows=8)
    fit_pca(root, PcaOptions(dim=2, name="p"))
    build_index(root, IndexOptions(name="i"))
    evaluate_knn(root, KnnOptions(k=3, holdout=0.25)).save(QUIET)
    settings: dict[str, Any] = {"head": "linear", "epochs": 1, "holdout": 0.25, "name": "h"}
    train_loff(root, TrainOptions(dtype="float32", **settings))
    return root


@pytest.fixture
def store(full: Path, tmp_path: Path) -> Path:
    """A copy, below a folder that nothing may touch."""
    (tmp_path / "around").mkdir()
    return Path(shutil.copytree(full, tmp_path / "around" / "s.fungi"))


def everything(root: Path) -> list[str]:
    """Run every command that reads or writes a store; returns what was printed."""
    said = []
    for command in (
        ("status", root),
        ("verify", root),
        ("index", root, "--name", "i"),
        ("index", root, "--name", "i", "--restart"),
        ("search", root, "000001.jpg", "--index", "i"),
        ("pca", root, "--name", "p", "--dim", 2),
        ("predict", root, "--rows", "0-3", "--head", "h"),
        ("train-loff", root, "--name", "h", "--head", "linear", "--epochs", 1, "--holdout", 0.25),
        ("eval", "knn", root, "--holdout", 0.25, "--k", 1),
        ("eval", "loff", root, "--head", "h"),
        ("export", root, root.parent / "out.npy", "--force"),
        ("verify", root, "--repair"),
        ("verify", root),
    ):
        done = fungi(*command)
        assert_tame(done)
        assert "unexpected error" not in done.stderr, (command, done.stderr)
        said.append(done.stdout + done.stderr)
    (root.parent / "out.npy").unlink(missing_ok=True)
    (root.parent / "out.samples.parquet").unlink(missing_ok=True)
    return said


OUT = "../../outside"


def _first_part(key: str, value: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["parts"][0].update({key: value})


def _file(value: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["files"]["vectors"].update(name=value)


EDITS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a part of the sample table": ("store.json", _first_part("file", f"{OUT}/part.parquet")),
    "an absolute part": ("store.json", _first_part("file", "/etc/passwd")),
    "a file of an index": ("indexes/set/i/index.json", _file(f"../../../{OUT}/vectors")),
    "a device as an index": ("indexes/set/i/index.json", _file("/dev/zero")),
    "an index's name": ("indexes/set/i/index.json", lambda d: d.update(name=OUT)),
    "an index's feature set": ("indexes/set/i/index.json", lambda d: d.update(feature_set=OUT)),
    "an index's features": (
        "indexes/set/i/index.json",
        lambda d: d.update(features=[f"pca/{OUT}"]),
    ),
    "a head's weights": ("heads/set/h/state.json", lambda d: d.update(file=f"../../../{OUT}/w")),
    "a device as weights": ("heads/set/h/state.json", lambda d: d.update(file="/dev/zero")),
    "a head's checksums": (
        "heads/set/h/state.json",
        lambda d: d.update(checksums={"/dev/zero": "0", f"{OUT}/secret.json": "0"}),
    ),
    "a head's inputs": ("heads/set/h/config.json", lambda d: d.update(inputs={OUT: OUT})),
    "an array's setup": (
        "features.zarr/set/embeddings/zarr.json",
        lambda d: d["attributes"].update(fingerprint=f"{OUT}/setup"),
    ),
    "a PCA's setup": (
        "features.zarr/set/pca/p/zarr.json",
        lambda d: d["attributes"].update(fingerprint=f"{OUT}/setup"),
    ),
    "a record's setup": (
        "commits/set/embeddings/00000001.json",
        lambda d: d.update(fingerprint=f"{OUT}/setup"),
    ),
    "an evaluation": ("evals/*.json", lambda d: d.update(store=OUT, feature_set=OUT)),
    "a setup's checksums": (
        "setups/*/checksums.json",
        lambda d: d.update({"../../../outside/secret.json": "0", "/dev/zero": "0"}),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_metadata_lead_nowhere(store: Path, name: str) -> None:
    """No command reads, writes or removes a file outside of the store, whatever its files say."""
    outside = store.parents[1] / "around" / "outside"
    (outside / "setup").mkdir(parents=True)
    vectors = next((store / "indexes/set/i").glob("vectors-*"))
    weights = next((store / "heads/set/h").glob("state-*.safetensors"))
    part = next((store / "samples.parquet").iterdir())
    for source, target in ((vectors, "vectors"), (weights, "w"), (part, "part.parquet")):
        shutil.copy(source, outside / target)
    (outside / "setup/config.json").write_text(
        '{"secret": "s3cret", "backbone": {"model": "s3cret"}}'
    )
    (outside / "secret.json").write_text('{"secret": "s3cret"}')
    pattern, change = EDITS[name]
    for path in sorted(store.glob(pattern)):
        edit(path, change)
    # a link would be followed below, where the same names are relative to the store's own folder
    shutil.copytree(outside, store.parents[1] / "outside")
    before = [snapshot(outside), snapshot(store.parents[1] / "outside")]
    said = everything(store)
    assert not any("s3cret" in text for text in said)
    assert [snapshot(outside), snapshot(store.parents[1] / "outside")] == before
    there = {path.name for path in store.parent.iterdir()}
    assert there == {"s.fungi", "outside"}


MOVED = {  # the file, what names it, and a command that reads it
    "a part of the sample table": ("samples.parquet/*", "store.json", ("status",)),
    "a file of an index": (
        "indexes/set/i/vectors-*",
        "indexes/set/i/index.json",
        ("search", "000001.jpg", "--index", "i"),
    ),
    "a head's weights": (
        "heads/set/h/state-*",
        "heads/set/h/state.json",
        ("predict", "--rows", "0", "--head", "h"),
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_readers_refuse_files_that_are_elsewhere(store: Path, name: str) -> None:
    """Even where the file is there and sound: a store is one directory."""
    outside = store.parent / "x"
    outside.mkdir()
    pattern, named_by, command = MOVED[name]
    files = [path for path in store.glob(pattern) if path.suffix != ".json"]
    (file,), record = files, store / named_by
    moved = outside / file.name
    file.rename(moved)
    relative = os.path.relpath(moved, file.parent)
    text = record.read_text()
    assert f'"{file.name}"' in text
    record.write_text(text.replace(f'"{file.name}"', json.dumps(relative)))
    done = fungi(command[0], store, *command[1:])
    assert done.exit_code == 5, done.stderr
    assert fungi("verify", store).exit_code == 5


@pytest.mark.parametrize("link", ["commits", "samples.parquet", "indexes", "features.zarr/set"])
def test_a_repair_removes_nothing_through_a_link(store: Path, link: str) -> None:
    """A folder of the store that is a link to somebody's own files: they stay."""
    home = store.parent / "home"
    for folder in ("", "set", "set/i", "a/b"):
        (home / folder).mkdir(parents=True, exist_ok=True)
        (home / folder / "diary.json").write_text("{}")
        (home / folder / "00000000.json").write_text("{}")
    shutil.rmtree(store / link)
    (store / link).symlink_to(home)
    before = snapshot(home)
    assert_tame(fungi("verify", store, "--repair"))
    assert snapshot(home) == before


PICKLED = {
    "frozen tensors": "setups/*/pca.safetensors",
    "a head's weights": "heads/set/h/state-*.safetensors",
    "an index": "indexes/set/i/vectors-*",
    "a part of the table": "samples.parquet/*",
    "a chunk": "features.zarr/set/embeddings/c/0/0",
    "a record": "commits/set/embeddings/00000000.json",
}


# A plain pickle springs each of the loaders (see below): the files of torch and NumPy once each.
KINDS = [(name, "pickle") for name in PICKLED]
KINDS += [("a head's weights", "torch"), ("frozen tensors", "numpy"), ("a chunk", "numpy")]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_nothing_in_a_store_is_unpickled(store: Path, tmp_path: Path, name: str, kind: str) -> None:
    """A pickle in the place of any file of a store never runs."""
    trap = tmp_path / "trap.npy"
    (path,) = sorted(store.glob(PICKLED[name]))[:1]
    _write_pickle(path, Trap(trap), kind)
    everything(store)
    assert not trap.exists()


def _write_pickle(path: Path, trap: Trap, kind: str) -> None:
    if kind == "torch":
        torch.save({"weight": trap}, path)
    elif kind == "numpy":
        with path.open("wb") as file:
            np.save(file, np.array([trap], object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(trap))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "load",
    [
        lambda path: pickle.loads(path.read_bytes()),
        lambda path: torch.load(path, weights_only=False),
        lambda path: np.load(path, allow_pickle=True),
    ],
    ids=["pickle", "torch", "numpy"],
)
def test_the_trap_works(tmp_path: Path, load: Callable[[Path], object]) -> None:
    """Whoever unpickles, in any of these ways, springs it: the tests above would notice."""
    trap = tmp_path / "trap.npy"
    _write_pickle(tmp_path / "file", Trap(trap), "pickle")
    with suppress(Exception):
        load(tmp_path / "file")
    assert trap.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch says so, then refuses
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
def test_weights_that_are_pickles_are_refused(
    images: Path, tmp_path: Path, suffix: str, kind: str
) -> None:
    """--weights of any name: exit 2, and the object in it never runs."""
    weights, trap = tmp_path / f"w{suffix}", tmp_path / "trap.npy"
    _write_pickle(weights, Trap(trap), kind)
    done = fungi("extract", images, tmp_path / "s", "--model", "test_vit", "--weights", weights)
    assert done.exit_code == 2, done.stderr
    assert "unexpected" not in done.stderr
    assert not trap.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
@pytest.mark.parametrize("suffix", [".npy", ".h5", ".parquet", ".npz"])
def test_imports_that_are_pickles_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    """An array of objects, or any pickle under the name of a matrix."""
    path, trap = tmp_path / f"x{suffix}", tmp_path / "trap.npy"
    _write_pickle(path, Trap(trap), kind)
    done = fungi("import", path, tmp_path / "s.fungi")
    assert done.exit_code == 2, done.stderr
    assert not trap.exists()


@pytest.mark.parametrize("kind", ["external storage", "virtual", "external link", "soft link"])
def test_hdf5_files_that_reach_for_other_files(tmp_path: Path, kind: str) -> None:
    """Values of another file are not imported: a shared file must not read the reader's disk."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(12, dtype=np.float32).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["embeddings"] = np.ones((4, 3), np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        if kind == "external storage":
            place = [(str(secret), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("embeddings", (4, 3), np.float32, external=place)
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 3), np.float32)
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "embeddings", (4, 3))
            file.create_virtual_dataset("embeddings", layout)
        elif kind == "external link":
            file["embeddings"] = h5py.ExternalLink(tmp_path / "other.h5", "embeddings")
        else:
            file["embeddings"] = h5py.SoftLink("/nothing")
    with pytest.raises(UsageError):
        import_features(tmp_path / "x.h5", tmp_path / "s.fungi")
    assert not (tmp_path / "s.fungi").exists()


def test_zarr_metadata_of_other_formats_are_not_opened(store: Path, tmp_path: Path) -> None:
    """An array of zarr 2, whose filters may be pickles, is none of a store's."""
    trap = tmp_path / "trap.npy"
    folder = store / "features.zarr/set/old"
    (folder / "c").mkdir(parents=True)
    document = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "|O", "order": "C"}
    document |= {"compressor": None, "fill_value": 0, "filters": [{"id": "pickle"}]}
    (folder / ".zarray").write_text(json.dumps(document))
    (folder / ".zattrs").write_text(json.dumps({"fingerprint": "x", "codec": "zstd"}))
    (folder / "0").write_bytes(pickle.dumps(np.array([Trap(trap), Trap(trap)], object)))
    records = store / "commits/set/old"
    shutil.copytree(store / "commits/set/embeddings", records)
    found = verify_store(store)
    assert [finding.kind for finding in found.errors] == ["array-damaged"]
    assert "zarr" in found.errors[0].found.lower()
    repair_store(store)
    assert not trap.exists()


def test_a_chunk_that_is_a_device_or_a_pipe_hangs_nobody(store: Path) -> None:
    """Links to devices in the place of chunks, records and parts end in a finding or an error."""
    for pattern in ("features.zarr/set/embeddings/c/1/0", "commits/set/embeddings/00000000.json"):
        path = store / pattern
        path.unlink()
        path.symlink_to("/dev/zero" if "commits" not in pattern else "/dev/null")
    found = verify_store(store)
    assert {finding.kind for finding in found.errors} >= {"chunk-damaged", "record-damaged"}


def test_weights_of_any_shape_in_a_head(store: Path) -> None:
    """Tensors of other names, shapes and types end in a FungiError."""
    (path,) = (store / "heads/set/h").glob("state-*.safetensors")
    for tensors in (
        {"x": np.zeros(3, np.float32)},
        {"best.weight": np.zeros((1 << 20,), np.int8)},
        {"../../x": np.zeros(1, np.float32)},
    ):
        save_file(tensors, path)
        with pytest.raises(FungiError):
            predict_rows(store, [0], PredictOptions(head="h", device="cpu"))
        verify_store(store)


def test_a_store_of_links_to_itself_ends(store: Path) -> None:
    """Circles of folders inside a store are not followed."""
    (store / "features.zarr/set/loop").symlink_to(store / "features.zarr")
    (store / "commits/set/loop").symlink_to(store / "commits")
    assert len(Store.open(store).arrays("set")) == 2
    assert_tame(fungi("status", store))
    verify_store(store)
