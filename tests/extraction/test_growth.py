"""What a dry run says of bytes, against the files that the run then leaves."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fungistore.errors import UsageError
from fungistore.extraction.measure import estimate
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.stage import extract
from tiny_world import TINY, write_images

CLOSE = 0.02


@pytest.fixture
def options(tiny_weights: Path) -> ExtractOptions:
    """Every kind of file: heads, a bank of negatives, numbers and vectors."""
    return ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=32,
        features=("embeddings", "kl", "simclr"),
        batch_size=8,
        unit_rows=8,
        device="cpu",
    ).with_settings("simclr.negatives=4")


def disk(store: Path) -> int:
    """The sum of the sizes of all files."""
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def grown(images: Path, store: Path, options: ExtractOptions, *, restart: bool = False) -> int:
    """Run it; return by how much the files grew."""
    before = disk(store)
    extract(str(images), store, options, restart=restart)
    return disk(store) - before


def test_few_rows_fill_a_chunk(images: Path, tmp_path: Path, options: ExtractOptions) -> None:
    """24 rows of a unit of 8,192 take its whole room on the disk, and heads and bank theirs."""
    options = replace(options, unit_rows=8192)
    said = estimate(images, tmp_path / "s.fungi", options)
    assert said.bytes > 8192 * 3 * 64 * 2
    assert said.bytes == pytest.approx(grown(images, tmp_path / "s.fungi", options), rel=CLOSE)
    assert (said.bytes_are_most, said.deleted_bytes, said.unit_is_measured) == (False, 0, False)


def test_small_units_cost_their_records(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Where a unit is one row of 128 bytes, its record is most of it."""
    options = replace(options, unit_rows=1, features=("embeddings",))
    said = estimate(images, tmp_path / "s.fungi", options)
    assert said.bytes == pytest.approx(grown(images, tmp_path / "s.fungi", options), rel=CLOSE)


def test_what_is_there_is_not_written_again(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Of a resumed, widened, grown and finished store only what is added counts."""
    store = tmp_path / "s.fungi"
    steps = (
        replace(options, limit=12),  # a unit and a half
        options,
        replace(options, features=("embeddings", "patches")),
    )
    for step in steps:
        said = estimate(images, store, step)
        assert said.bytes == pytest.approx(grown(images, store, step), rel=CLOSE), step
    write_images(images / "owl", 30, seed=3)
    said = estimate(images, store, options)
    assert said.bytes == pytest.approx(grown(images, store, options), rel=CLOSE)
    assert estimate(images, store, options).bytes == 0


@pytest.mark.parametrize("codec", ["zstd", "bitround"])
def test_a_codec_makes_it_a_bound(
    images: Path, tmp_path: Path, options: ExtractOptions, codec: str
) -> None:
    """What compresses is said as the most that it can be, and rows that are not there cost little.

    Vectors of a random model are noise, which is the worst case.
    """
    config = options.to_config() | {"codec": codec, "features": ["embeddings", "patches"]}
    options = ExtractOptions.from_config(config | {"unit_rows": 256})
    said = estimate(images, tmp_path / "s.fungi", options)
    assert said.bytes_are_most
    written = grown(images, tmp_path / "s.fungi", options)
    assert written <= said.bytes < 2 * written


def test_a_restart_counts_what_it_deletes(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """A restart says what it writes and what goes first; the difference is what the disk gains."""
    store = tmp_path / "s.fungi"
    extract(str(images), store, options)
    fewer = replace(options, limit=8)
    said = estimate(images, store, fewer, restart=True)
    real = grown(images, store, fewer, restart=True)
    assert said.bytes - said.deleted_bytes == pytest.approx(real, rel=0.05)
    assert replace(said, free_bytes=said.bytes - said.deleted_bytes).fits
    assert not replace(said, free_bytes=said.bytes - said.deleted_bytes - 1).fits


def test_rows_that_are_made_anew_are_counted(
    images: Path, tmp_path: Path, options: ExtractOptions
) -> None:
    """Of failed inputs and changed files, as the run that is asked for makes them: none unasked."""
    store = tmp_path / "s.fungi"
    options = replace(options, features=("embeddings", "kl"))
    for broken in ("000.jpg", "001.jpg"):
        (images / "cat" / broken).write_text("no image")
    extract(str(images), store, options)
    shutil.copy(images / "cat" / "002.jpg", images / "dog" / "011.jpg")
    anew = {}
    for asked in ({}, {"retry_failed": True}, {"update": True}, {"update": True, "restart": True}):
        said = estimate(images, store, options, **asked)
        anew[", ".join(asked)] = (said.images, said.units, said.seconds[1] > 0)
    assert anew == {
        "": (0, 0, False),
        "retry_failed": (2, 1, True),
        "update": (3, 2, True),
        "update, restart": (24, 3, True),
    }
    with pytest.raises(UsageError, match="for all features of a feature set together"):
        estimate(images, store, replace(options, features=("kl",)), update=True)
    before = disk(store)
    done = extract(str(images), store, options, update=True)
    assert (done.redone, done.failed) == (1, 2)
    assert abs(disk(store) - before) < 1000  # units are replaced; the list of failures differs
