"""Moved, touched and repacked data: the same bytes are known again, others are never mixed up."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungistore.engines.engine import Local
from fungistore.errors import FungiError, UsageError
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.result import ExtractResult
from fungistore.extraction.stage import extract
from fungistore.machine.context import Context
from fungistore.modalities.reading import digest_item
from fungistore.report import Silent
from fungistore.store.item_digests import FAILED, UNKNOWN, ItemDigests
from fungistore.store.locks import Slice
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from tiny_world import TINY

COUNT = 12


class Notes(Silent):
    """Keeps the notices."""

    def __init__(self) -> None:
        self.text = ""

    def notice(self, text: str) -> None:
        self.text += text + "\n"


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
        unit_rows=4,
        workers=2,
    )


def bitmap(seed: int) -> bytes:
    """An image whose encoded size is that of any other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "BMP")
    return stream.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images of one size in two classes."""
    for number in range(COUNT):
        path = tmp_path / f"images/{'ab'[number % 2]}/{number:02}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bitmap(number))
    return tmp_path / "images"


def pack(path: Path, numbers: Iterable[int], seed: int = 0) -> Path:
    """Write a shard; images of another seed have other pixels and the same size."""
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            member = tarfile.TarInfo(f"{number:02}.bmp")
            content = bitmap(number + seed)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def run(
    source: Path, store: Path, options: ExtractOptions, **how: bool
) -> tuple[ExtractResult, str]:
    notes = Notes()
    return extract(str(source), store, options, context=Context(notes), **how), notes.text


def vectors(store: Path) -> dict[str, list[float]]:
    """The embedding of each id."""
    opened = Store.open(store)
    array = opened.arrays(TINY)["embeddings"]
    rows = array.read(0, array.rows)
    return dict(zip(opened.samples.ids(), rows.tolist(), strict=False))


def assert_those_of(source: Path, store: Path, options: ExtractOptions) -> None:
    """Every id has the embedding that a new store gives it."""
    fresh = store.with_name("fresh.fungi")
    shutil.rmtree(fresh, ignore_errors=True)
    run(source, fresh, options)
    expected, found = vectors(fresh), vectors(store)
    assert set(found) == set(expected)
    for name, vector in found.items():
        np.testing.assert_allclose(vector, expected[name], atol=2e-4, err_msg=name)


def digests(store: Path) -> list[int]:
    noted = ItemDigests(Store.open(store).backend, TINY)
    return [digest for unit in range(3) for digest in noted.read(unit, 4).tolist()]


def touch(folder: Path, seconds: float = 1e9) -> None:
    for path in folder.rglob("*.bmp"):
        os.utime(path, (seconds, seconds))


def test_touched_images_are_known_again(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """New times and the same bytes: told once, and nothing is made anew, with --update neither."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    touch(images)
    done, said = run(images, store, options, update=True)
    assert "12 images were moved or touched: the same bytes" in said
    assert (done.images_computed, done.redone) == (0, 0)
    assert "moved or touched" not in run(images, store, options)[1]


@pytest.mark.parametrize("is_copy", [False, True])
@pytest.mark.slow
def test_another_root_with_other_times(
    images: Path, tmp_path: Path, options: ExtractOptions, is_copy: bool
) -> None:
    """As by rsync without -t or git clone, whether the first place is gone or not."""
    store, other = tmp_path / "s.fungi", tmp_path / "other"
    run(images, store, replace(options, limit=6))
    shutil.copytree(images, other)
    touch(other)
    if not is_copy:
        shutil.rmtree(images)
    done, said = run(other, store, options)
    assert f"{12 if is_copy else 6} images were moved or touched" in said
    assert (done.images_computed, done.samples) == (6, 12)
    shutil.rmtree(images, ignore_errors=True)
    assert_those_of(other, store, options)
    assert run(other, store, options, update=True)[0].redone == 0


@pytest.mark.slow
def test_other_images_at_another_root_are_refused(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Names and sizes may agree, also of rows that nothing was made of yet."""
    store, other = tmp_path / "s.fungi", tmp_path / "other"
    run(images, store, replace(options, limit=4))
    shutil.copytree(images, other)
    for path in sorted(other.rglob("*.bmp"))[:8]:
        path.unlink()
    for path in other.rglob("*.bmp"):
        path.write_bytes(bitmap(99))
    before = (store / "samples.parquet/part-00000.parquet").read_bytes()
    with pytest.raises(UsageError, match="names of other images"):
        run(other, store, options)
    assert (store / "samples.parquet/part-00000.parquet").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("is_gone", [False, True])
def test_other_images_of_the_same_names_sizes_and_times_are_refused(
    images: Path, tmp_path: Path, options: ExtractOptions, is_gone: bool
) -> None:
    """As of bitmaps from archives whose files all have one time; a faithful copy is known again."""
    store, other = tmp_path / "s.fungi", tmp_path / "other"
    touch(images)
    run(images, store, options)
    shutil.copytree(images, other)
    for path in other.rglob("*.bmp"):
        path.write_bytes(bitmap(99))
    touch(other)
    copy = shutil.copytree(images, tmp_path / "copy")
    if is_gone:
        shutil.rmtree(images)
    with pytest.raises(UsageError, match="names of other images"):
        run(other, store, options)
    assert run(copy, store, options)[0].images_computed == 0


@pytest.mark.slow
def test_other_bytes_of_the_same_size_are_a_change(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Kept until --update makes them anew, also beside images that were only touched."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    before = vectors(store)
    touch(images)
    (images / "a/02.bmp").write_bytes(bitmap(77))
    done, said = run(images, store, options)
    assert "1 images have another size, time or content" in said
    assert "11 images were moved or touched" in said
    assert vectors(store) == before
    done, _ = run(images, store, options, update=True)
    assert done.redone == 1
    assert_those_of(images, store, options)
    touch(images, 2e9)
    assert "12 images were moved" in run(images, store, options)[1]


@pytest.mark.parametrize(
    "decode_in", ["threads", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_a_shard_packed_anew_half_way(
    tmp_path: Path, options: ExtractOptions, decode_in: str
) -> None:
    """Each id keeps its own pixels; what was made is not made again."""
    store, shard = tmp_path / "s.fungi", tmp_path / "a.tar"
    options = replace(options, decode_in=decode_in, unit_rows=8)
    pack(shard, range(COUNT))
    run(shard, store, replace(options, limit=6))
    pack(shard, reversed(range(COUNT)))
    done, said = run(shard, store, options)
    assert "6 images were moved or touched" in said
    assert (done.images_computed, done.failed) == (6, 0)
    assert_those_of(shard, store, options)
    row = Store.open(store).samples.rows(2, 3)[0]
    digest = ItemDigests(Store.open(store).backend, TINY).read(0, 8)[2]
    assert digest_item(row["root"], row["uri"]) == digest
    assert verify_store(store).is_sound


@pytest.mark.slow
def test_other_images_in_a_shard_packed_anew(tmp_path: Path, options: ExtractOptions) -> None:
    """Rows that are made are kept as they were; the others are of the new shard."""
    store, shard = tmp_path / "s.fungi", tmp_path / "a.tar"
    pack(shard, range(COUNT))
    run(shard, store, replace(options, limit=4))
    old = vectors(store)
    pack(shard, reversed(range(COUNT)), seed=50)
    _, said = run(shard, store, options)
    assert "4 images have another size, time or content" in said
    now = vectors(store)
    assert [now[name] for name in list(old)[:4]] == list(old.values())[:4]
    row = Store.open(store).samples.rows(0, 1)[0]
    with pytest.raises(FungiError, match="another one than when it was listed"):
        digest_item(row["root"], row["uri"])
    assert run(shard, store, options, update=True)[0].redone == 4
    assert_those_of(shard, store, options)


@pytest.mark.slow
def test_a_kill_between_the_digests_and_the_commit(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Digests without a committed unit vouch for nothing: the rows take the place that is there."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    for path in store.glob("features.zarr/*/embeddings/c/2/*"):
        path.unlink()
    next(store.glob("commits/*/embeddings/00000002.json")).unlink()
    for number, path in enumerate(sorted(images.rglob("*.bmp"))):
        path.write_bytes(bitmap(number + 30) if number >= 8 else path.read_bytes())
        os.utime(path, (1e9, 1e9))
    done, said = run(images, store, options)
    assert "8 images were moved or touched" in said
    assert "another size" not in said
    assert done.images_computed == 4
    assert_those_of(images, store, options)
    touch(images, 2e9)
    assert "12 images were moved" in run(images, store, options)[1]


@pytest.mark.slow
def test_workers_note_what_one_process_notes(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Slices, growth of a part of a unit, and a failed input; --restart notes them anew."""
    (images / "b/05.bmp").write_bytes(b"no image")
    one, two = tmp_path / "one.fungi", tmp_path / "two.fungi"
    run(images, one, options)
    run(images, two, replace(options, limit=6))
    for index in range(2):
        extract(str(images), two, options, engine=Local(Slice(index, 2)))
    noted = digests(one)
    assert digests(two) == noted
    assert (noted.count(FAILED), noted.count(UNKNOWN), len(set(noted))) == (1, 0, 12)
    run(images, one, options, restart=True)
    assert digests(one) == noted


@pytest.mark.slow
def test_a_store_without_digests_says_what_it_did_before(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Rows of an older version that were touched count as changed; --update gives them digests."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    shutil.rmtree(store / "contents")
    touch(images)
    assert "12 images have another size, time or content" in run(images, store, options)[1]
    assert run(images, store, options, update=True)[0].redone == 12
    touch(images, 2e9)
    assert "12 images were moved" in run(images, store, options)[1]


@pytest.mark.slow
def test_features_of_two_contents_are_listed(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """A file that was replaced with its size and time kept is found when it is read again."""
    store = tmp_path / "s.fungi"
    run(images, store, options)
    path = images / "a/04.bmp"
    times = path.stat()
    path.write_bytes(bitmap(88))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    both = replace(options, features=("embeddings", "kl"))
    run(images, store, both)
    (listed,) = Store.open(store).failures()
    assert (listed.uri, listed.error) == ("a/04.bmp", "ChangedFile")
    assert run(images, store, both, update=True)[0].redone == 1
    assert_those_of(images, store, options)
