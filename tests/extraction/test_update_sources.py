"""`--update` in a store of several sources: each changed row takes its own source's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fungistore.errors import UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from fungistore.location import absolute_uri, locate, path_to_uri
from fungistore.modalities.image.images import Images
from fungistore.modalities.reading import read_item
from fungistore.store.store import Store
from tiny_world import TINY, write_images


@pytest.fixture
def options(tiny_weights: Path) -> ExtractOptions:
    return ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        features=("embeddings",),
        dtype="float32",
        storage_dtype="float32",
        batch_size=4,
        unit_rows=8,
    )


def manifest(folder: Path, rows: list[tuple[str, str]]) -> str:
    lines = ["path,id", *(f"{path},{name}" for path, name in rows)]
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def embeddings(root: Path) -> np.ndarray:
    array = Store.open(root).arrays(TINY)["embeddings"]
    return array.read(0, array.rows)


def test_an_image_that_went_to_another_source_is_read_there(
    tmp_path: Path, options: ExtractOptions
) -> None:
    """Its row takes the file of the source that has it now, whatever root its part has."""
    one, two, store = tmp_path / "one", tmp_path / "two", tmp_path / "s.fungi"
    write_images(one / "a", 3, seed=1)
    write_images(two / "b", 3, seed=2)
    extract(manifest(one, [(f"a/{n:03d}.jpg", f"one-{n}") for n in range(3)]), store, options)
    own = [(f"b/{n:03d}.jpg", f"two-{n}") for n in range(3)]
    extract(manifest(two, own), store, options)
    before = embeddings(store)
    (one / "a/001.jpg").unlink()
    write_images(two / "moved", 1, seed=9)
    moved = manifest(two, [*own, ("moved/000.jpg", "one-1")])
    done = extract(moved, store, options, update=True)
    assert (done.redone, done.failed) == (1, 0)
    row = Store.open(store).samples.rows(1, 2)[0]
    assert locate(row["root"], row["uri"]).path == str(two / "moved/000.jpg")
    after = embeddings(store)
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [1]
    extract(moved, tmp_path / "fresh.fungi", options)
    np.testing.assert_allclose(after[1], embeddings(tmp_path / "fresh.fungi")[3], atol=2e-4)
    assert extract(moved, store, options, update=True).redone == 0


def test_two_images_of_one_name_are_refused(tmp_path: Path, options: ExtractOptions) -> None:
    """Where the first one is still there, the other is no newer version of it; nothing changes."""
    one, two, store = tmp_path / "one", tmp_path / "two", tmp_path / "s.fungi"
    write_images(one / "a", 3, seed=1)
    write_images(two / "b", 3, seed=2)
    extract(str(one), store, options)
    extract(str(two), store, options)
    write_images(two / "a", 1, seed=3)
    write_images(two / "b", 4, seed=2)
    before = {p: p.read_bytes() for p in (store / "samples.parquet").iterdir()}
    with pytest.raises(UsageError, match="names of other images") as caught:
        extract(str(two), store, options, update=True)
    assert "a/000.jpg" in str(caught.value)
    assert {p: p.read_bytes() for p in (store / "samples.parquet").iterdir()} == before
    write_images(one / "a", 1, seed=9)
    assert extract(str(one), store, options, update=True).redone == 1


@pytest.mark.parametrize("name", ["x.jpg", "b\udcff.jpg", "bytes:x.jpg", "/abs/x.jpg", "a/../x"])
def test_an_absolute_uri_means_the_same_everywhere(name: str) -> None:
    """Of any spelling of a path, and of a tar member."""
    for uri in (path_to_uri(name), f"{path_to_uri(name)}#offset=512&size=7&ext=jpg"):
        assert locate("/other", absolute_uri("/root", uri)) == locate("/root", uri)


def test_the_files_are_those_of_each_source(tmp_path: Path, options: ExtractOptions) -> None:
    """Rows of a part keep their uris when another source's rows change."""
    one, two, store = tmp_path / "one", tmp_path / "two", tmp_path / "s.fungi"
    write_images(one / "a", 3, seed=1)
    write_images(two / "b", 3, seed=2)
    extract(str(one), store, options)
    extract(str(two), store, options)
    write_images(two / "b", 1, seed=5)
    assert extract(str(two), store, options, update=True).redone == 1
    for row in Store.open(store).samples.rows(0, 6):
        assert not Path(row["uri"]).is_absolute()
        read_item(Images(), row["root"], row["uri"])
