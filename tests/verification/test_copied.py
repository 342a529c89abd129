"""A store with something of every stage in it is copied with all of it, up and down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fungistore as fungi
from fungistore.copying.stage import copy_store
from fungistore.machine.context import QUIET
from fungistore.store.store import Store


def files(root: Path) -> dict[str, bytes]:
    """Return what a store's directory holds but locks."""
    paths = (path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.usefixtures("own_cache")
def test_all_that_was_made_of_features_is_copied(full: Path, tmp_path: Path) -> None:
    """PCA, indexes, head and evaluations come back byte by byte, and are used where they are."""
    url, back = f"memory://{tmp_path.name}", tmp_path / "back.fungi"
    copy_store(full, url, context=QUIET)
    copy_store(url, back, context=QUIET)
    assert files(back) == files(full)
    kinds = {key.partition("/")[0] for key in files(full)}
    assert {"indexes", "heads", "evals", "setups", "commits", "features.zarr"} <= kinds
    assert fungi.verify_store(url).is_sound == fungi.verify_store(full).is_sound
    assert fungi.verify_store(back).is_sound
    mine, theirs = fungi.status(full).to_json(), fungi.status(url).to_json()
    assert mine | {"store": ""} == theirs | {"store": ""}
    options = fungi.SearchOptions(index="exact", k=5)
    found = [fungi.search(one, ["000003.jpg"], options) for one in (full, url)]
    assert len(found[0].answers) == 1
    assert found[0].answers == found[1].answers
    there = Store.open(url)
    assert np.array_equal(there.samples.labels(), Store.open(full).samples.labels())
