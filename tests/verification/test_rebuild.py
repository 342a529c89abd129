"""A store whose records were lost: said as an error, never deleted, and rebuilt where it can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from feature_world import ListSource, clustered, make_store
from fungistore.errors import StoppedError, StoreError, UsageError
from fungistore.fingerprint import digest_ids, fingerprint
from fungistore.indexing.build import build_index
from fungistore.machine.context import Context
from fungistore.sources.sample import Sample
from fungistore.store import batches
from fungistore.store.failures import Failure
from fungistore.store.feature import Feature
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from fungistore.verification.rebuild import rebuild_records
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store

UNIT = 8


def records(root: Path) -> dict[str, bytes]:
    paths = sorted((root / "commits").rglob("*.json"))
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def lose_records(root: Path) -> dict[str, bytes]:
    before = records(root)
    shutil.rmtree(root / "commits")
    return before


def kinds(found) -> list[str]:
    return [finding.kind for finding in found.findings]


def test_a_copy_without_records_is_an_error_that_repair_leaves_alone(root: Path) -> None:
    """Each array without records is one; not one chunk is deleted, and the way out is named."""
    lose_records(root)
    chunks = {p: p.read_bytes() for p in root.glob("features.zarr/**/c/*/*")}
    done = repair_store(root)
    assert {path: path.read_bytes() for path in chunks} == chunks
    errors = [finding for finding in done.verification.errors if finding.kind == "records-missing"]
    assert [finding.where for finding in errors] == [
        "commits/set/embeddings",
        "commits/set/gradients/kl",
        "commits/set/pca/four",
    ]
    assert "--rebuild-records" in errors[0].repair
    shown = CliRunner().invoke(app, ["verify", str(root)])
    assert shown.exit_code == 5
    assert f"next: fungi verify {root} --rebuild-records" in shown.stderr


def test_chunks_before_the_first_record_are_no_error(tmp_path: Path) -> None:
    """A kill or a full disk leaves them beside an empty folder of records."""
    vectors, labels = clustered(20, 2, 4)
    store = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels, unit_rows=UNIT)
    for record in (store.root / "commits/set/embeddings").iterdir():
        record.unlink()
    (finding,) = verify_store(store.root).findings
    assert (finding.kind, finding.severity) == ("records-missing", "warning")
    assert "--rebuild" not in CliRunner().invoke(app, ["verify", str(store.root)]).stderr
    assert repair_store(store.root).repaired == ()


@pytest.mark.parametrize("kept", [0, 1])
def test_more_chunks_without_records_than_kills_leave_are_an_error(
    root: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of records is there, with none or few of them, as an object store's always is."""
    for record in sorted((root / "commits/set/embeddings").iterdir())[kept:]:
        record.unlink()
    assert verify_store(root).is_sound
    monkeypatch.setattr(batches, "MOST_UNITS", 2)
    (finding,) = repair_store(root).verification.errors
    assert (finding.kind, finding.where) == ("records-missing", "commits/set/embeddings")
    assert rebuild_records(root).verification.is_sound


def test_rebuilt_records_are_those_that_were_lost(root: Path) -> None:
    """Rows, sizes, checksums, ids and counts: of whole units and of the last one, of all arrays.

    Only from which rows a PCA's were made is not known any more: it may be that they were others.
    """
    lost = lose_records(root)
    done = rebuild_records(root)
    assert done.rebuilt == {"set/embeddings": 4, "set/gradients/kl": 4, "set/pca/four": 4}
    assert (done.left, done.verification.findings) == ((), ())
    assert {key: json.loads(data) for key, data in records(root).items()} == {
        key: json.loads(data) | {"inputs": []} for key, data in lost.items()
    }
    assert rebuild_records(root).rebuilt == {}


def test_only_records_that_are_gone_or_damaged_are_rebuilt(root: Path) -> None:
    """One that can be read stays, also where its chunk is not what it says."""
    before = records(root)
    folder = root / "commits/set/gradients/kl"
    (folder / "00000001.json").unlink()
    (folder / "00000002.json").write_bytes(b"{")
    other = (folder / "00000003.json").read_bytes().replace(b'"zero_rows": 0', b'"zero_rows": 1')
    (folder / "00000003.json").write_bytes(other)
    done = rebuild_records(root)
    assert done.rebuilt == {"set/gradients/kl": 2}
    assert kinds(done.verification) == ["counts-differ"]
    (folder / "00000003.json").write_bytes(before["commits/set/gradients/kl/00000003.json"])
    assert records(root) == before


def test_a_chunk_that_is_not_whole_gets_no_record(root: Path) -> None:
    """A flipped bit, a short file, an empty one: CRC-32C or size tell."""
    lose_records(root)
    folder = root / "features.zarr/set/gradients/kl/c"
    data = bytearray((folder / "0/0").read_bytes())
    data[100] ^= 1
    (folder / "0/0").write_bytes(data)
    (folder / "1/0").write_bytes(data[:50])
    (folder / "2/0").write_bytes(b"")
    done = rebuild_records(root)
    assert done.rebuilt == {"set/embeddings": 4, "set/gradients/kl": 1, "set/pca/four": 4}
    assert [where for where, _ in done.left] == [
        f"features.zarr/set/gradients/kl/c/{unit}/0" for unit in (0, 1, 2)
    ]


@pytest.mark.parametrize("damage", ["edited", "gone"])
def test_without_its_setup_an_array_gets_no_records(root: Path, damage: str) -> None:
    """What the chunks were made with must be there, whole."""
    lose_records(root)
    array = Store.open(root).arrays("set")["gradients/kl"]
    config = root / "setups" / array.fingerprint / "config.json"
    if damage == "gone":
        config.unlink()
    else:
        config.write_text(json.dumps(json.loads(config.read_bytes()) | {"more": 1}))
    done = rebuild_records(root)
    assert done.rebuilt == {"set/embeddings": 4, "set/pca/four": 4}
    assert len(done.left) == 4
    assert all("its setup" in why for _, why in done.left)


def test_without_its_samples_a_store_gets_no_records(root: Path) -> None:
    """The ids come from the sample table."""
    lose_records(root)
    (part,) = (root / "samples.parquet").iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(StoreError, match="without the sample table"):
        rebuild_records(root)
    assert not (root / "commits").exists()


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_rows_that_were_not_made_are_told_from_failed_ones(tmp_path: Path, codec: str) -> None:
    """An extraction's last unit, grown since: trailing NaN are rows to come unless they are
    listed as failed; failed inputs are counted as they were."""
    samples = [Sample(f"{row}.jpg", f"{row}.jpg") for row in range(22)]
    store = Store.open_or_create(tmp_path / "s.fungi")
    add_source(store, ListSource(samples))
    config = {"backbone": {"model": "x"}, "layout": {"unit_rows": UNIT, "codec": codec}}
    store.setups.freeze(config, {}, {})
    array = store.create_array(
        "set",
        Feature("embeddings", (4,), "float32"),
        rows=22,
        unit_rows=UNIT,
        codec=codec,
        fingerprint=fingerprint(config),
    )
    values = np.random.default_rng(0).normal(size=(22, 4)).astype(np.float32)
    values[[3, 14, 15]] = np.nan  # of which 3 and 15 could not be read, 14 was odd
    failures = [Failure(row, f"{row}.jpg", "ImageError", "x", "set") for row in (3, 15)]
    store.add_failures(failures)
    for unit, failed, rows in ((0, 1, 8), (1, 1, 8), (2, 0, 3)):
        start = unit * UNIT
        ids = digest_ids(sample.id for sample in samples[start : start + rows])
        array.publish(unit, values[start : start + rows], ids, failed)
    root = store.root
    lost = lose_records(root)
    assert rebuild_records(root).rebuilt == {"set/embeddings": 3}
    assert records(root) == lost
    lose_records(root)
    (root / "failures.jsonl").unlink()  # nothing tells any more that row 15 was made
    rebuild_records(root)
    assert [c.rows for c in Store.open(root).arrays("set")["embeddings"].commits().values()] == [
        8,
        6,
        3,
    ]


def test_a_pca_of_rows_that_have_a_record_is_not_vouched_for(root: Path) -> None:
    """They may have been made anew since the records were lost; fungi pca makes its unit again."""
    embeddings = Store.open(root).arrays("set")["embeddings"]
    lose_records(root)
    embeddings.publish(1, -embeddings.read(16, 32), "", 0)
    done = rebuild_records(root)
    assert done.rebuilt == {"set/embeddings": 3, "set/gradients/kl": 4, "set/pca/four": 3}
    ((where, why),) = done.left
    assert where == "features.zarr/set/pca/four/c/1/0"
    assert "fungi pca" in why


def test_what_was_made_before_a_store_grew_is_sound_after_a_rebuild(tmp_path: Path) -> None:
    """The record tells no more how many rows the unit had; the rows themselves are compared."""
    vectors, labels = clustered(14, 2, 4)
    root = tmp_path / "s.fungi"
    make_store(root, {"embeddings": vectors[:10]}, labels[:10])
    build_index(root)
    make_store(root, {"embeddings": vectors}, labels)
    lose_records(root)
    assert rebuild_records(root).verification.findings == ()


def test_a_unit_of_nan_alone_is_made_again(tmp_path: Path) -> None:
    """It reads like one that was never made."""
    vectors, labels = clustered(20, 2, 4)
    vectors[UNIT:16] = np.nan
    root = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels, unit_rows=UNIT).root
    lose_records(root)
    done = rebuild_records(root)
    assert done.rebuilt == {"set/embeddings": 2}
    assert "NaN" in done.left[0][1]


def test_the_command_rebuilds(root: Path) -> None:
    """It says how many and what is left; with --repair it is refused."""
    lose_records(root)
    (root / "features.zarr/set/gradients/kl/c/2/0").write_bytes(b"x")
    both = CliRunner().invoke(app, ["verify", str(root), "--rebuild-records", "--repair"])
    assert both.exit_code == UsageError.exit_code
    shown = CliRunner().invoke(app, ["verify", str(root), "--rebuild-records"])
    assert "records rebuilt: 11" in shown.stdout
    assert "not rebuilt: features.zarr/set/gradients/kl/c/2/0" in shown.stdout
    again = CliRunner().invoke(app, ["verify", str(root), "--rebuild-records", "--json"])
    document = json.loads(again.stdout)
    assert (document["rebuilt"], len(document["not_rebuilt"])) == ({}, 1)
    stopped = Context(stop=lambda: True)
    with pytest.raises(StoppedError):
        rebuild_records(root, context=stopped)
