"""open_source: every kind of source, every way to miss one, and paths on standard input."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from fungistore.errors import FungiError, UsageError
from fungistore.sources.folder import FolderSource
from fungistore.sources.manifest import ManifestSource
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Sample, Source
from fungistore.sources.stdin import PathListSource
from fungistore.sources.webdataset import TarSource


def ids(content: bytes) -> list[str]:
    return [sample.id for sample in open_source("-", io.BytesIO(content))]


def test_the_kind_follows_from_the_name(tmp_path: Path) -> None:
    """Folders, manifests, shards and - are told apart without reading any image."""
    for name in ("m.csv", "m.parquet", "s-0.tar"):
        (tmp_path / name).touch()
    kinds = {
        str(tmp_path): TarSource,
        f"{tmp_path}/m.csv": ManifestSource,
        f"{tmp_path}/m.parquet": ManifestSource,
        f"{tmp_path}/s-0.tar": TarSource,
        f"{tmp_path}/s-{{0..0}}.tar": TarSource,
        "-": PathListSource,
    }
    for name, kind in kinds.items():
        source: Source = open_source(name, io.BytesIO())
        assert isinstance(source, kind)
        assert os.path.isabs(source.root)


def test_relative_sources_start_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name is looked up in the current directory, and roots are absolute."""
    (tmp_path / "pets").mkdir()
    (tmp_path / "m.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("pets"), FolderSource)
    assert open_source("pets").root == str(tmp_path / "pets")
    assert open_source("m.csv").root == str(tmp_path)


def test_a_missing_source_offers_a_near_name(tmp_path: Path) -> None:
    """A typing error is answered with the name that was probably meant."""
    (tmp_path / "flowers").mkdir()
    with pytest.raises(UsageError, match="no such file or directory") as caught:
        open_source(f"{tmp_path}/flwoers/")
    assert caught.value.hint == f"did you mean '{tmp_path}/flowers'?"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["", "gone", "gone/gone", "gone-{0..1}.zip", "n" * 5000, "nul\0"])
def test_a_missing_source_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nothing near, nothing to offer: still what was missing, and where paths start."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        open_source(name or str(tmp_path / "x"))
    assert "relative paths start at the current folder" in str(caught.value.hint)
    assert "manifest" in str(caught.value.expected)


@pytest.mark.parametrize("name", ["cat.jpg", "noextension"])
def test_other_files_are_told_what_a_source_can_be(tmp_path: Path, name: str) -> None:
    """An image or an unknown file gets the list of sources, and a hint for single images."""
    (tmp_path / name).touch()
    with pytest.raises(UsageError) as caught:
        open_source(str(tmp_path / name))
    for kind in ("folder", ".csv", ".parquet", ".tar", "stdin"):
        assert kind in str(caught.value.expected)
    assert "folder that holds" in str(caught.value.hint)


def test_paths_come_one_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines are skipped, spaces kept, a leading ./ dropped, the last newline optional."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.jpg").write_bytes(b"123")
    source = open_source("-", io.BytesIO(b"./a b.jpg\n\n  \n/abs/c.jpg\r\n.//d/../e.jpg"))
    assert source.root == str(tmp_path)
    assert source.label_names() == []
    first, *others = source
    assert (first.id, first.uri, first.bytes) == ("a b.jpg", "a b.jpg", 3)
    assert first.mtime == (tmp_path / "a b.jpg").stat().st_mtime
    assert others == [Sample("/abs/c.jpg", "/abs/c.jpg"), Sample("d/../e.jpg", "d/../e.jpg")]


def test_nul_separates_paths_with_line_breaks() -> None:
    """The output of find -print0 is recognised, and names with newlines survive."""
    assert ids(b"a\nb.jpg\0c.jpg\0") == ["a\nb.jpg", "c.jpg"]
    assert ids(b"a.jpg\0") == ["a.jpg"]


def test_no_paths_are_no_samples() -> None:
    """An empty stream is an empty source."""
    assert ids(b"") == ids(b"\n") == ids(b"\0") == []


def test_paths_survive_the_borders_of_chunks() -> None:
    """A hundred thousand paths arrive whole and in order."""
    expected = [f"folder/{n:07}.jpg" for n in range(100_000)]
    assert ids("\n".join(expected).encode()) == expected


def test_paths_that_are_not_utf8_can_be_stored() -> None:
    """Undecodable bytes are percent-encoded, as a folder source does it."""
    assert ids(b"caf\xe9.jpg\n") == ["bytes:caf%E9.jpg"]


def test_a_binary_file_on_stdin_is_refused() -> None:
    """Megabytes without a separator are no list of paths, and are not collected in memory."""
    with pytest.raises(UsageError, match="not a list of paths") as caught:
        ids(b"a.jpg\n" + b"x" * 10_000_000)
    assert caught.value.where == "line 2"


def test_stdin_cannot_be_read_twice() -> None:
    """A second pass is an error rather than an empty source."""
    source = open_source("-", io.BytesIO(b"a.jpg\n"))
    assert len(list(source)) == 1
    with pytest.raises(FungiError, match="only once"):
        list(source)
