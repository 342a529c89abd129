"""Folders whose names are not UTF-8, or are spelled like a uri: as sources they are like others."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hostile_world import assert_tame, document, fungi

from fungistore.store.store import Store
from tiny_world import TINY, write_images

FOLDERS = [b"caf\xe9\xff", b"bytes:%41", b"a\n\x1b[31m", b"x.tar#offset=1&size=2&ext=jpg"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_source_of_any_name_is_kept_and_found_again(
    tmp_path: Path, quick: list[object], name: bytes
) -> None:
    """Extracted, opened, searched, updated, verified and exported, as any other source."""
    folder, store = tmp_path / os.fsdecode(name), tmp_path / "s.fungi"
    write_images(folder / "cat", 3)
    done = fungi("extract", folder, store, *quick)
    assert done.exit_code == 0, done.stderr
    assert Store.open(store).samples.rows(0, 1)[0]["root"] == str(folder)
    write_images(folder / "cat", 1, seed=5)
    before = Store.open(store).arrays(TINY)["embeddings"].read(0, 3)
    assert fungi("extract", folder, store, *quick, "--update").exit_code == 0
    after = Store.open(store).arrays(TINY)["embeddings"].read(0, 3)
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [0]
    fungi("index", store)
    for command in (
        ("status", store),
        ("search", store, folder / "cat/001.jpg", "--html", tmp_path / "p.html"),
        ("verify", store),
        ("export", store, tmp_path / "out.parquet"),
    ):
        shown = fungi(*command)
        assert_tame(shown)
        assert shown.exit_code == 0, shown.stderr
    found = document(fungi("search", store, folder / "cat/001.jpg", "--json"))
    assert found["answers"][0]["neighbours"][0]["id"] == "cat/001.jpg"


def test_a_store_whose_path_is_not_utf8_is_refused(tmp_path: Path, quick: list[object]) -> None:
    """Before anything is written: Parquet and others cannot open such a path."""
    write_images(tmp_path / "data", 1)
    store = tmp_path / os.fsdecode(b"s\xff.fungi")
    done = fungi("extract", tmp_path / "data", store, *quick)
    assert done.exit_code == 2
    assert "UTF-8" in done.stderr
    assert_tame(done)
    assert not store.exists()
    assert fungi("status", store).exit_code == 2
