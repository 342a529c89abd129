"""Changed and removed files, and inputs that failed and work now."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungistore.errors import UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.result import ExtractResult
from fungistore.extraction.stage import extract
from fungistore.machine.context import Context
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.report import Silent
from fungistore.sources.opening import open_source
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from fungistore.verification.rebuild import rebuild_records
from fungistore.verification.verify import verify_store
from tiny_world import TINY, write_images

SIMPLE = {"model": TINY, "image_size": 32, "dtype": "float32", "batch_size": 4, "unit_rows": 8}


class Notes(Silent):
    """Keeps the notices."""

    def __init__(self) -> None:
        self.text = ""

    def notice(self, text: str) -> None:
        self.text += text + "\n"


@pytest.fixture
def options(tiny_weights: Path) -> ExtractOptions:
    return ExtractOptions(weights=str(tiny_weights), storage_dtype="float32", **SIMPLE)


def run(images: Path, store: Path, options: ExtractOptions, **how: bool) -> ExtractResult:
    return extract(str(images), store, options, **how)


def assert_like_a_fresh_run(store: Path, images: Path, options: ExtractOptions) -> None:
    """Every value is that of a new store's, up to what another batch size changes."""
    fresh = store.with_name("fresh.fungi")
    run(images, fresh, options)
    for name, array in Store.open(fresh).arrays(options.name).items():
        ours = Store.open(store).arrays(options.name)[name]
        np.testing.assert_allclose(ours.read(0, 24), array.read(0, 24), atol=2e-4, err_msg=name)
        assert all(map(ours.holds, ours.commits().values()))
        failed = {unit: commit.failed for unit, commit in array.commits().items()}
        assert {unit: commit.failed for unit, commit in ours.commits().items()} == failed


def test_changed_files_are_made_anew_with_update(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Their rows get the new content, the others keep their bits; the table gets size and time."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    before = Store.open(store).arrays(TINY)["embeddings"].read(0, 24)
    write_images(images / "dog", 1, seed=77)
    write_images(images / "cat", 1, seed=78)
    notes = Notes()
    extract(str(images), store, options, context=Context(notes))
    assert "--update makes them anew" in notes.text
    np.testing.assert_array_equal(Store.open(store).arrays(TINY)["embeddings"].read(0, 24), before)
    done = run(images, store, options, update=True)
    assert (done.redone, done.failed, done.images_computed) == (2, 0, 0)
    after = Store.open(store).arrays(TINY)["embeddings"].read(0, 24)
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.tolist() == [0, 12]
    assert_like_a_fresh_run(store, images, options)
    opened = Store.open(store)
    row = opened.samples.rows(12, 13)[0]
    assert row["bytes"] == (images / row["uri"]).stat().st_size
    assert row["label"] == 1
    notes = Notes()
    again = extract(str(images), store, options, update=True, context=Context(notes))
    assert again.redone == 0
    assert "another size" not in notes.text


def test_an_update_reaches_other_feature_sets_and_pcas(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Other sets list the rows until they are updated too; a PCA's units go and come again."""
    store = tmp_path / "s.fungi"
    other = replace(options, feature_set="other")
    run(images, store, options)
    run(images, store, other)
    fit_pca(store, PcaOptions(dim=4, name="p", feature_set=TINY))
    write_images(images / "dog", 1, seed=77)
    notes = Notes()
    extract(str(images), store, options, update=True, context=Context(notes))
    assert "pca/p" in notes.text
    assert [(f.feature_set, f.row) for f in Store.open(store).failures()] == [("other", 12)]
    assert sorted(Store.open(store).arrays(TINY)["pca/p"].commits()) == [0, 2]
    assert rebuild_records(store).rebuilt == {}  # none vouches for rows made from the old ones
    assert "orphan" not in {finding.kind for finding in verify_store(store).findings}
    assert fit_pca(store, PcaOptions(dim=4, name="p", feature_set=TINY)).units_computed == 1
    notes = Notes()
    assert extract(str(images), store, other, context=Context(notes)).failed == 1
    assert "1 row is of files that have changed" in notes.text
    assert run(images, store, other, update=True).failed == 0


def test_an_update_stopped_before_its_rows_goes_on(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Killed between the table and the rows, or between record and chunk: nothing is forgotten."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    write_images(images / "dog", 1, seed=77)
    add_source(Store.open(store), open_source(str(images)), update=True)
    Store.open(store).arrays(TINY)["gradients/kl"].forget(1)
    done = run(images, store, options, update=True)
    assert (done.redone, done.images_computed, done.failed) == (1, 8, 0)
    assert_like_a_fresh_run(store, images, options)


def test_a_changed_row_is_listed_though_its_record_is_lost(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """An update stopped before its first unit, then rebuilt records: the row is made anew yet."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    shutil.rmtree(store / "commits")
    write_images(images / "dog", 1, seed=77)
    add_source(Store.open(store), open_source(str(images)), update=True)
    rebuild_records(store)
    assert [failure.row for failure in Store.open(store).failures()] == [12]
    assert run(images, store, options, update=True).redone == 1
    assert_like_a_fresh_run(store, images, options)


def test_failed_inputs_are_tried_again(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """What can be read now is filled in and off the list; what cannot stays on it."""
    store = tmp_path / "s.fungi"
    broken = [images / "cat" / "003.jpg", images / "cat" / "004.jpg", images / "dog" / "011.jpg"]
    whole = {}
    for path in broken:
        whole[path] = path.read_bytes()
        times = path.stat()
        path.write_bytes(b"broken" + bytes(times.st_size - 6))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(images, store, options).failed == 3
    for path in broken[:2]:
        times = path.stat()
        path.write_bytes(whole[path])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(images, store, options).failed == 3
    done = run(images, store, options, retry_failed=True)
    assert (done.redone, done.failed) == (2, 1)
    assert [failure.row for failure in Store.open(store).failures()] == [23]
    assert_like_a_fresh_run(store, images, options)
    assert run(images, store, options, retry_failed=True).redone == 0
    with pytest.raises(UsageError, match="--features kl,embeddings"):
        run(images, store, replace(options, features=("kl",)), retry_failed=True)


def test_removed_files_are_reported_and_kept(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """The count and the first names are told; a second source is not taken for a removal."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    for number in range(4):
        (images / "cat" / f"{number:03d}.jpg").unlink()
    notes = Notes()
    assert extract(str(images), store, options, context=Context(notes)).samples == 24
    assert "4 images are not in the source any more" in notes.text
    assert "cat/000.jpg, cat/001.jpg, cat/002.jpg, ..." in notes.text
    write_images(tmp_path / "second" / "eel", 2)
    notes = Notes()
    extract(str(tmp_path / "second"), store, options, context=Context(notes))
    assert "any more" not in notes.text
