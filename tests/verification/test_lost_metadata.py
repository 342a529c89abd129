"""An array that lost its zarr.json has its chunks still, and these tell what it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from feature_world import clustered, make_store, write_block
from fungistore.choices import Codec
from fungistore.fingerprint import digest_ids, fingerprint
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store


def chunks(root: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and "/c/" in str(p)}


@pytest.mark.parametrize("damage", ["lost", "wrong row", "short", "no json"])
@pytest.mark.parametrize("name", ["embeddings", "gradients/kl", "pca/four", "norms/kl"])
def test_metadata_come_back_from_setup_and_chunks(root: Path, name: str, damage: str) -> None:
    """No unit is dropped, whatever the file said last, and the file is as it was."""
    store = Store.open(root)
    if name == "norms/kl":
        write_block(store, "set", name, np.arange(60, dtype=np.float32))
    before, path = chunks(root), root / "features.zarr/set" / name / "zarr.json"
    right = json.loads(path.read_bytes())
    if damage == "lost":
        path.unlink()
    elif damage == "no json":
        path.write_bytes(b"{")
    else:
        rows, *row = right["shape"]
        shape = [20, *row] if damage == "short" else [rows, *(size - 1 for size in row)]
        path.write_text(json.dumps(right | {"shape": shape, "fill_value": 1.0}))
    done = repair_store(root)
    assert [finding.kind for finding in done.repaired] == ["array-damaged"]
    assert done.verification.findings == ()
    assert json.loads(path.read_bytes()) == right
    assert chunks(root) == before


def compressed(root: Path, codec: Codec) -> UnitArray:
    vectors, labels = clustered(20, 2, 4)
    store = make_store(root, {}, labels)
    config = {"layout": {"unit_rows": 8, "codec": codec}, "vectors": {"dtype": "float16"}}
    store.setups.freeze(config, {}, {})
    array = UnitArray.create(
        store.backend,
        "set/embeddings",
        shape=(20, 4),
        dtype="float16",
        unit_rows=8,
        codec=codec,
        fingerprint=fingerprint(config),
    )
    for unit in range(3):
        rows = slice(8 * unit, 8 * unit + array.rows_of(unit))
        ids = digest_ids(row["id"] for row in store.samples.rows(rows.start, rows.stop))
        array.publish(unit, vectors[rows], ids, 0)
    return array


def test_compressed_chunks_tell_it_too(tmp_path: Path) -> None:
    """What a chunk decodes to has its record's checksum."""
    array = compressed(tmp_path / "s", "zstd")
    rows = array.read(0, 20)
    (tmp_path / "s/features.zarr/set/embeddings/zarr.json").unlink()
    assert repair_store(tmp_path / "s").verification.is_sound
    np.testing.assert_array_equal(
        Store.open(tmp_path / "s").arrays("set")["embeddings"].read(0, 20), rows
    )


def test_without_proof_nothing_is_written_or_removed(root: Path) -> None:
    """Chunks that no record's checksum is of: an error, and advice."""
    folder = root / "features.zarr/set/embeddings"
    (folder / "zarr.json").unlink()
    for chunk in (folder / "c").glob("*/0"):
        chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    before = chunks(root)
    done = repair_store(root)
    (finding,) = [f for f in done.verification.errors if f.kind == "array-damaged"]
    assert finding.remedy is None
    assert "out of the store" in str(finding.advice)
    assert chunks(root) == before
    assert not (folder / "zarr.json").exists()
    assert len(list((root / "commits/set/embeddings").iterdir())) == 4
    assert not verify_store(root).is_sound


def test_whole_chunks_beyond_the_end_stay(root: Path) -> None:
    """Metadata from before growth, and records lost: the chunks are those of rows of the table."""
    path = root / "features.zarr/set/embeddings/zarr.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"shape": [32, 8]}))
    for unit in (2, 3):
        (root / f"commits/set/embeddings/{unit:08d}.json").unlink()
    before = chunks(root)
    done = repair_store(root)
    orphans = [finding for finding in done.verification.findings if finding.kind == "orphan"]
    assert [finding.remedy for finding in orphans] == [None, None]
    assert "a whole chunk" in orphans[0].found
    assert chunks(root) == before
    chunk = root / "features.zarr/set/embeddings/c/3/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    repair_store(root)
    assert set(before) - set(chunks(root)) == {chunk}
