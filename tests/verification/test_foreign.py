"""Files of other programs in a store: passed over by whatever lists a folder, and never removed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from feature_world import clustered, make_store
from fungistore.evaluation.knn import evaluate_knn
from fungistore.evaluation.options import KnnOptions
from fungistore.indexing.build import build_index
from fungistore.indexing.options import IndexOptions
from fungistore.indexing.record import index_folders
from fungistore.loff.head_folder import head_names
from fungistore.names import is_foreign
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.status import status
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.rebuild import rebuild_records
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

FILES = (".DS_Store", "Thumbs.db", "desktop.ini", ".nfs0000000001", "x.json~", "#x.json#")
FOLDERS = ("@eaDir", ".ipynb_checkpoints", "lost+found")


def litter(root: Path) -> list[Path]:
    """Put every kind of foreign file into every folder, and a companion beside every file."""
    left = []
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        if folder.name == ".locks":
            continue
        names = [f"._{path.name}" for path in folder.iterdir()]
        for name in FILES:
            (folder / name).write_bytes(b"\0")
            left.append(folder / name)
        for name in names:
            (folder / name).write_bytes(b"\0\5\x16\7")
            left.append(folder / name)
        for name in FOLDERS:
            (folder / name).mkdir()
            (folder / name / "zarr.json").write_bytes(b"{")
            (folder / name / "config.json").write_bytes(b"{")
            left.append(folder / name)
    return left


def test_files_of_others_change_nothing(root: Path) -> None:
    """In every folder of a store: what is listed, verified and made is the same, and they stay."""
    before, found = status(root), verify_store(root)
    left = litter(root)
    assert status(root) == before
    littered = repair_store(root)
    assert (littered.repaired, littered.verification.findings) == ((), ())
    assert littered.verification.units == found.units
    (note,) = littered.verification.notes
    assert note.startswith(f"{len(left)} files or folders of other programs are passed over: ")
    store = Store.open(root)
    assert len(index_folders(store)) == 2
    assert head_names(store, "set") == ["h"]
    assert len(store.setups.names()) == 3
    fit_pca(root, PcaOptions(dim=2, name="two"))
    build_index(root, IndexOptions(name="more"))
    build_index(root, IndexOptions(name="exact"), restart=True)
    evaluate_knn(root, KnnOptions(k=3, holdout=0.25))
    store.sweep()
    gone = [path for path in left if not path.exists()]
    assert all("indexes/set/exact" in str(path) for path in gone)  # the folder was deleted
    assert verify_store(root).is_sound
    assert rebuild_records(root).rebuilt == {}


def test_unused_setups_go_and_other_folders_stay(root: Path) -> None:
    """Only what has a fingerprint for a name is a setup."""
    others = [root / "setups" / name for name in ("notes", "@eaDir", ".ipynb_checkpoints")]
    unused = root / "setups" / ("0" * 32)
    for folder in (*others, unused):
        folder.mkdir()
    Store.open(root).remove_unused_setups()
    assert [folder.exists() for folder in (*others, unused)] == [True, True, True, False]


def test_a_folder_that_a_desktop_has_looked_into_is_empty(tmp_path: Path) -> None:
    """A store can be made there."""
    (tmp_path / "s.fungi").mkdir()
    (tmp_path / "s.fungi" / ".DS_Store").write_bytes(b"\0")
    Store.open_or_create(tmp_path / "s.fungi")


@pytest.mark.parametrize(
    "name", ["store.json", "00000000.json", "c", "0", "set", "vectors-4.faiss", "a#b", "icon"]
)
def test_our_names_are_not_foreign(name: str) -> None:
    """Nor are the names that feature sets, indexes and heads may have."""
    assert not is_foreign(name)


# --- consolidated metadata


def consolidated(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))


def read_plainly(root: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(root / "features.zarr", mode="r")
        return np.asarray(group["set"]["embeddings"])


@pytest.mark.parametrize("below", ["", "set"])
def test_copies_of_metadata_go_when_the_store_grows(tmp_path: Path, below: str) -> None:
    """zarr reads all rows after growth, a new array too, and none that was removed."""
    vectors, labels = clustered(16, 2, 4)
    root = make_store(tmp_path / "s", {"embeddings": vectors[:8]}, labels[:8], unit_rows=8).root
    consolidated(root / "features.zarr" / below)
    assert read_plainly(root).shape == (8, 4)
    assert verify_store(root).findings == ()  # copies of what is there
    store = make_store(root, {"embeddings": vectors}, labels, unit_rows=8)
    np.testing.assert_array_equal(read_plainly(root), vectors)
    consolidated(root / "features.zarr" / below)
    make_store(root, {"gradients/kl": vectors}, labels, unit_rows=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "kl" in zarr.open_group(root / "features.zarr", mode="r")["set"]["gradients"]
        consolidated(root / "features.zarr" / below)
        store.remove_arrays([store.arrays("set")["gradients/kl"]])
        assert "kl" not in zarr.open_group(root / "features.zarr", mode="r")["set"]["gradients"]
    assert verify_store(root).findings == ()


def test_stale_copies_of_metadata_are_found(root: Path) -> None:
    """As an older version of this program left them; --repair takes them out."""
    path = root / "features.zarr" / "zarr.json"
    consolidated(path.parent)
    assert verify_store(root).findings == ()
    text = path.read_text()
    path.write_text(text.replace("60,\n", "30,\n"))
    (finding,) = verify_store(root).findings
    assert (finding.kind, finding.severity) == ("metadata-stale", "warning")
    assert "set/embeddings" in finding.found
    assert [finding.kind for finding in repair_store(root).repaired] == ["metadata-stale"]
    assert verify_store(root).findings == ()
    assert read_plainly(root).shape == (60, 8)


# --- what users put among the arrays and records


def test_what_users_put_among_the_arrays_stays(root: Path) -> None:
    """An array of their own, folders, notes: a store is sound with them, and they are named."""
    before = status(root).feature_sets
    group = zarr.open_group(root / "features.zarr", mode="a")
    group.create_array("my_umap", data=np.ones((8, 2), np.float32), chunks=(8, 2))
    files = [
        "features.zarr/plots/c/x.png",
        "features.zarr/notes/README.txt",
        "commits/notes/todo.json",
        "commits/set/embeddings/README.txt",
        "samples.parquet/README.txt",
        "samples.parquet/part-00001.parquet.old",
    ]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    assert status(root).feature_sets == before
    done = repair_store(root)
    assert (done.repaired, done.verification.findings) == ((), ())
    assert all((root / name).exists() for name in files)
    assert np.all(zarr.open_array(root / "features.zarr/my_umap", mode="r")[:] == 1)
    (note,) = done.verification.notes
    assert note.startswith("6 files or folders of other programs are passed over: ")
    assert "features.zarr/my_umap" in note


@pytest.mark.parametrize("damage", [None, b"{", b"{}"])
def test_what_may_be_of_others_is_an_error_without_a_remedy(
    root: Path, damage: bytes | None
) -> None:
    """Chunks without metadata or records, or metadata that say nothing."""
    path = root / "features.zarr/theirs"
    (path / "c").mkdir(parents=True)
    (path / "c/0").write_bytes(b"numbers")
    if damage is not None:
        (path / "zarr.json").write_bytes(damage)
    done = repair_store(root)
    assert done.repaired == ()
    assert [finding.kind for finding in done.verification.errors] == ["array-damaged"]
    (path / "c/0").rename(path / "c/x")
    done = repair_store(root)
    assert done.repaired == ()
    assert len(done.verification.errors) == (damage is not None)
    assert (path / "c/x").exists()


def test_a_pca_may_be_named_like_the_folder_of_chunks(root: Path) -> None:
    """What metadata say decides; without them, whether there are numbers."""
    store = Store.open(root)
    array = store.arrays("set")["pca/four"]
    for place in ("features.zarr/set/pca", "commits/set/pca"):
        (root / place / "four").rename(root / place / "c")
    assert [a.name for a in verify_store(root).arrays if "pca" in a.name] == ["set/pca/c"]
    for group in ("set/pca", "set"):
        (root / "features.zarr" / group / "zarr.json").unlink()
    done = repair_store(root)
    assert {finding.kind for finding in done.repaired} <= {"group-damaged", "index-stale"}
    assert len(UnitArray(store.backend, "set/pca/c").commits()) == array.units
