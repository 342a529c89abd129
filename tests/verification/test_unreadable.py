"""What cannot be read is not damaged: verify says so, repair and later runs leave it alone."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import ListSource
from fungistore.errors import StoreError, explained
from fungistore.indexing.record import checked_file, index_folder, read_record
from fungistore.location import is_there, locate
from fungistore.loff.head_folder import head_run
from fungistore.sources.sample import Sample
from fungistore.store.disk_errors import is_unreadable
from fungistore.store.gather import MappedChunks
from fungistore.store.listing import add_source
from fungistore.store.local import LocalBackend
from fungistore.store.samples import SampleTable
from fungistore.store.store import Store
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

Fail = Callable[[Path, BaseException], None]
FILES = {
    "chunk": ("features.zarr/set/embeddings/c/1/0", errno.EACCES),
    "record": ("commits/set/gradients/kl/00000002.json", errno.EIO),
    "array": ("features.zarr/set/embeddings/zarr.json", errno.ESTALE),
    "group": ("features.zarr/set/zarr.json", errno.EMFILE),
    "setup": ("setups/*/config.json", errno.EACCES),
    "tensors": ("setups/*/pca.safetensors", errno.EIO),
    "checksums": ("setups/*/checksums.json", errno.ENFILE),
    "samples": ("samples.parquet/part-00000.parquet", errno.EACCES),
    "failures": ("failures.jsonl", errno.EIO),
    "index": ("indexes/set/graph/index.json", errno.EACCES),
    "vectors": ("indexes/set/graph/vectors-*.faiss", errno.EIO),
    "head": ("heads/set/h/config.json", errno.EACCES),
    "state": ("heads/set/h/state.json", errno.ETIMEDOUT),
    "weights": ("heads/set/h/state-*.safetensors", errno.EIO),
    "evaluation": ("evals/*.json", errno.EACCES),
}


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let the system refuse to open a file, or to list a folder."""
    failing: dict[str, BaseException] = {}

    def refuse(function: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(place: Any = ".", *arguments: Any, **named: Any) -> Any:
            if not isinstance(place, int) and os.fspath(place) in failing:
                raise failing[os.fspath(place)]
            return function(place, *arguments, **named)

        return refusing

    monkeypatch.setattr(io, "open", refuse(io.open))
    monkeypatch.setattr(os, "scandir", refuse(os.scandir))
    return lambda path, error: failing.update({str(path): error})


def files(root: Path) -> dict[Path, bytes]:
    left_out = root / ".locks"
    paths = [p for p in root.rglob("*") if p.is_file() and not p.is_relative_to(left_out)]
    return {path: path.read_bytes() for path in paths}


def error_of(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_read_is_not_repaired(root: Path, fail: Fail, what: str) -> None:
    """No byte of the store changes, whatever the error; the finding names the file."""
    pattern, number = FILES[what]
    if what == "failures":
        (root / pattern).write_bytes(b"")
    path = next(root.glob(pattern))
    before = files(root)
    fail(path, error_of(number, path))
    done = repair_store(root)
    assert done.repaired == ()
    found = done.verification
    assert {finding.kind for finding in found.errors} == {"unreadable"}
    assert found.verdict == "unreadable"
    assert path.relative_to(root).as_posix() in {finding.where for finding in found.errors}
    assert all(finding.remedy is None for finding in found.findings)
    fail(path, MemoryError())
    assert repair_store(root).repaired == ()
    fail(path, error_of(errno.ENOENT, path))  # this does say something
    assert "unreadable" not in {finding.kind for finding in verify_store(root).findings}
    fail(path, error_of(errno.EIO, path))
    del before[path]
    assert {other: other.read_bytes() for other in before} == before


@pytest.mark.parametrize(
    "folder",
    [
        "commits",
        "commits/set/embeddings",
        "features.zarr",
        "features.zarr/set/embeddings/c",
        "setups",
        "samples.parquet",
        "indexes",
        "indexes/set",
        "heads/set",
        "evals",
    ],
)
def test_a_folder_that_cannot_be_listed_is_not_empty(root: Path, fail: Fail, folder: str) -> None:
    """Nothing in it, and nothing that belongs to it, counts as missing."""
    fail(root / folder, error_of(errno.EACCES, root / folder))
    done = repair_store(root)
    assert done.repaired == ()
    assert {finding.kind for finding in done.verification.errors} == {"unreadable"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("file", ["record", "array", "setup"])
def test_a_unit_that_cannot_be_read_is_not_computed_again(
    root: Path, fail: Fail, file: str, number: int
) -> None:
    """What looks for missing units raises what the system said: nothing is written over it."""
    array = Store.open(root).arrays("set")["gradients/kl"]
    path = next(root.glob(FILES[file][0].replace("embeddings", "gradients/kl")))
    if file == "setup":
        path = root / "setups" / array.fingerprint / "config.json"
    fail(path, error_of(number, path))

    def look() -> None:
        store = Store.open(root)
        array = store.arrays("set")["gradients/kl"]
        store.setups.config(array.fingerprint)
        array.commits()

    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        look()
    assert caught.value.errno == number
    told = explained(caught.value)
    assert (told.exit_code, told.where) == (1, str(path))


def test_readers_tell_what_is_unreadable_from_what_is_damaged(root: Path, fail: Fail) -> None:
    """Chunks that are mapped or decoded, heads, indexes, tensors: OSError, not StoreError."""
    store = Store.open(root)
    array = store.arrays("set")["embeddings"]
    folder = index_folder(store, "set", "exact")
    record = read_record(folder)
    assert record is not None
    head = head_run(store, "set", "h")
    pca = store.arrays("set")["pca/four"]
    attempts: dict[str, Callable[[], object]] = {
        "features.zarr/set/embeddings/c/1/0": lambda: array.read(16, 32),
        "features.zarr/set/embeddings/c/0/0": lambda: MappedChunks(array, 1)._map(0, 0),
        "indexes/set/exact/index.json": lambda: read_record(folder),
        f"indexes/set/exact/{record.files['vectors'].name}": lambda: checked_file(
            folder, record, "vectors"
        ),
        "heads/set/h/state.json": head.progress,
        f"setups/{pca.fingerprint}/pca.safetensors": lambda: store.setups.tensors(
            pca.fingerprint, "pca"
        ),
    }
    for name, attempt in attempts.items():
        fail(root / name, error_of(errno.EIO, root / name))
        with pytest.raises(OSError, match="Input/output error"):
            attempt()
        fail(root / name, error_of(errno.ENOENT, root / name))
        if "/c/1/" not in name:  # zarr takes a chunk that is not there for rows of NaN
            with pytest.raises(StoreError):
                attempt()


def test_what_an_error_says() -> None:
    """Absence and bytes that cannot be parsed say something about a store; the rest does not."""
    for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
        assert not is_unreadable(OSError(number, "x"))
    for number in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM):
        assert is_unreadable(OSError(number, "x"))
    assert is_unreadable(MemoryError())
    assert is_unreadable(RuntimeError("can't start new thread"))
    assert not is_unreadable(RuntimeError("Zstd decompression error"))
    assert not is_unreadable(OSError("Couldn't deserialize thrift"))  # of Arrow
    assert not is_unreadable(ValueError())


def test_a_backend_knows_what_is_not_there(tmp_path: Path) -> None:
    """`has` is False where a folder or a link to itself is, and an error where nobody can look."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"x")
    backend = LocalBackend(tmp_path)
    found = {name: backend.has(name) for name in ("folder", "loop", "file", "file/x", "nothing")}
    assert [name for name, is_there in found.items() if is_there] == ["file"]


def test_a_root_that_does_not_answer_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network disk that fails for a moment has not moved its images to another root."""
    (tmp_path / "loop").symlink_to("loop")
    found = {name: is_there(str(tmp_path / name)) for name in (".", "nothing", "loop", "a\0b")}
    assert [name for name, there in found.items() if there] == ["."]
    error = error_of(errno.ESTALE, tmp_path / "root")
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **named: raise_it(error) if "root" in str(path) else stat(path)
    )
    with pytest.raises(OSError, match="Stale"):
        locate(str(tmp_path / "root"), "a.jpg").exists()


def test_a_root_behind_another_users_folder_is_gone_where_a_copy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the data elsewhere goes on from there; a failing disk leaves no new part."""
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for folder, names in ((theirs, "ab"), (mine, "abc")):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.jpg").write_bytes(b"x")
    make_table(tmp_path / "s.fungi", theirs, "ab")
    before = sorted((tmp_path / "s.fungi/samples.parquet").iterdir())
    error = error_of(errno.EIO, theirs)
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **named: raise_it(error) if path == str(theirs) else stat(path)
    )
    with pytest.raises(OSError, match="Input/output"):
        make_table(tmp_path / "s.fungi", mine, "abc")
    assert sorted((tmp_path / "s.fungi/samples.parquet").iterdir()) == before
    error = error_of(errno.EACCES, theirs)
    table = make_table(tmp_path / "s.fungi", mine, "abc")
    assert (len(table), {part.root for part in table.parts}) == (3, {str(mine)})


def make_table(store: Path, root: Path, names: str) -> SampleTable:
    opened = Store.open_or_create(store)
    source = ListSource([Sample(f"{name}.jpg", f"{name}.jpg") for name in names])
    source.root = str(root)
    add_source(opened, source)
    return Store.open(store).samples


def raise_it(error: BaseException) -> None:
    raise error


def test_the_command_exits_1_where_something_cannot_be_read(root: Path, fail: Fail) -> None:
    """It is no damage, and not sound: nothing is known."""
    path = root / FILES["chunk"][0]
    fail(path, error_of(errno.EACCES, path))
    for more in ([], ["--repair"]):
        shown = CliRunner().invoke(app, ["verify", str(root), *more])
        assert shown.exit_code == 1
        assert "NOT READ" in shown.stdout
        assert "DAMAGED" not in shown.stdout


def test_a_store_of_another_schema_is_not_called_damaged(root: Path) -> None:
    """It is of another version, which is said with what to do; exit code 5 as elsewhere."""
    path = root / "store.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"schema": [1, 3]}))
    assert verify_store(root).verdict == "other schema"
    shown = CliRunner().invoke(app, ["verify", str(root)])
    assert (shown.exit_code, "DAMAGED" in shown.stdout) == (5, False)
    assert "earlier major version" in " ".join(shown.stdout.split())
    assert np.all([not finding.remedy for finding in repair_store(root).verification.findings])


@pytest.mark.parametrize(
    "place", ["features.zarr", "features.zarr/set", "features.zarr/set/embeddings/c"]
)
@pytest.mark.parametrize("is_link", [True, False])
def test_what_a_disk_that_is_not_mounted_has_is_not_gone(
    root: Path, place: str, is_link: bool
) -> None:
    """A link to nothing, or the empty folder that a disk is mounted on: no record is removed."""
    if place.endswith("/c") and not is_link:
        pytest.skip("chunks that were deleted leave an empty folder, too")
    (root / place).rename(root.parent / "disk")
    if is_link:
        (root / place).symlink_to(root.parent / "disk2")
    else:
        (root / place).mkdir()
    before = files(root)
    done = repair_store(root)
    assert done.repaired == ()
    assert {finding.kind for finding in done.verification.errors} == {"unreadable"}
    assert place in {finding.where for finding in done.verification.errors}
    assert files(root) == before
    if is_link:
        (root.parent / "disk").rename(root.parent / "disk2")
        is_followed = place != "features.zarr/set"
        assert verify_store(root).verdict == ("sound" if is_followed else "unreadable")
