"""`verify` on whole stores: each kind of damage is found by its name, and what is normal is not."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from fungi_cli.main import app
from store_damage import are_equal, contents
from typer.testing import CliRunner

from feature_world import Notices, clustered, make_store, write_block
from fungistore.errors import FungiError, StoppedError, UsageError
from fungistore.machine.context import QUIET, Context
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.store.chunks import PIECE_BYTES, Counts, count_rows
from fungistore.store.documents import sealed
from fungistore.store.item_digests import UNKNOWN, ItemDigests
from fungistore.store.local import LocalBackend
from fungistore.store.store import Store
from fungistore.verification.repair import repair_store
from fungistore.verification.samples import digests_of_ranges
from fungistore.verification.units import Budget
from fungistore.verification.verify import verify_store

ROWS, UNIT_ROWS = 60, 16
runner = CliRunner()


def kinds(found):
    return [finding.kind for finding in found.findings]


def only(found):
    (finding,) = found.findings
    return finding


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def remake(root, salt=1):
    """Make the embeddings anew with another setup."""
    store = Store.open(root)
    array = store.arrays("set")["embeddings"]
    store.remove_arrays([array])
    write_block(store, "set", "embeddings", clustered(ROWS, 3, 8)[0], unit_rows=16, salt=salt)


def test_a_sound_store_has_no_findings(root):
    """What is normal (NaN of failed inputs, zero rows, later stages) is counted, not blamed."""
    found = verify_store(root)
    assert found.findings == ()
    assert found.is_sound
    counts = {array.name: array for array in found.arrays}
    embeddings, kl = counts["set/embeddings"], counts["set/gradients/kl"]
    assert (embeddings.rows, embeddings.units, embeddings.nan_rows) == (ROWS, 4, 1)
    assert (embeddings.failed, kl.zero_rows, kl.nan_rows) == (1, 1, 0)
    chunks = [p for p in root.glob("features.zarr/**/c/**/*") if p.is_file()]
    assert found.units == len(chunks) == 12
    assert found.bytes == sum(path.stat().st_size for path in chunks)


def test_verify_changes_nothing(root):
    """Not a byte of a store differs after it was verified, damaged or not."""
    (root / "commits" / "set" / "embeddings" / "00000001.json").write_bytes(b"")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    verify_store(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_swapped_chunks_are_both_found(root):
    """A chunk in the place of another decodes well, and is not what its record says."""
    first, second = (root / f"features.zarr/set/embeddings/c/{unit}/0" for unit in (1, 2))
    mine, its = first.read_bytes(), second.read_bytes()
    first.write_bytes(its)
    second.write_bytes(mine)
    found = verify_store(root)
    assert kinds(found) == ["chunk-damaged", "chunk-damaged"]
    assert found.findings[0].where.endswith("embeddings/c/1/0")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"rows": 4}, "chunk-damaged"),
        ({"rows": 17}, "record-damaged"),
        ({"unit": 2}, "record-damaged"),
        ({"bytes": 3}, "record-damaged"),
        ({"checksum": "0"}, "chunk-damaged"),
        ({"fingerprint": "0"}, "fingerprint-differs"),
        ({"ids": "0"}, "ids-differ"),
        ({"nan_rows": 5}, "counts-differ"),
        ({"inf_rows": 1}, "counts-differ"),
        ({"zero_rows": 1}, "counts-differ"),
        ({"failed": 9}, "counts-differ"),
        ({"rows": "x"}, "record-damaged"),
    ],
)
def test_each_field_of_a_record_is_checked(root, changes, kind):
    """A record whose field was edited is found, and its unit alone is dropped."""
    record = root / "commits" / "set" / "embeddings" / "00000001.json"
    edit(record, **changes)
    assert only(verify_store(root)).kind == kind
    before = set(record.parent.iterdir())
    done = repair_store(root)
    assert done.verification.is_sound
    assert before - set(record.parent.iterdir()) == {record}
    assert verify_store(root).is_sound
    assert "fungi extract" in done.commands[0]


def test_a_damaged_pca_unit_names_its_own_command(root):
    """The coordinates of a PCA are computed again by the command that made them, to the same."""
    right = contents(root)
    (root / "features.zarr/set/pca/four/c/1/0").write_bytes(b"short")
    done = repair_store(root)
    assert [finding.kind for finding in done.repaired] == ["chunk-damaged"]
    (command,) = done.commands
    assert command.startswith(f"fungi pca {root} --feature-set set --name four --features")
    again = fit_pca(root, PcaOptions(name="four", dim=4, features=("embeddings", "kl")))
    assert again.units_computed == 1
    assert are_equal(contents(root), right)


def test_a_group_and_an_array_without_metadata_are_written_anew(root):
    """zarr.json files come back from setups and records, and no unit is lost."""
    right = contents(root)
    for name in ("", "set", "set/gradients", "set/gradients/kl", "set/embeddings"):
        path = root / "features.zarr" / name / "zarr.json"
        document = json.loads(path.read_bytes())
        if document["node_type"] == "array":
            path.write_text(json.dumps(document | {"fill_value": 0}))
        else:
            path.write_bytes(b"{")
    found = verify_store(root)
    assert sorted(kinds(found)) == ["array-damaged"] * 2 + ["group-damaged"] * 3
    assert repair_store(root).verification.is_sound
    assert are_equal(contents(root), right)
    assert verify_store(root).findings == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [61, 8]},
        {"shape": [20, 8]},
        {"data_type": "int16"},
        {"attributes": {"fingerprint": "0" * 32, "codec": "none"}},
        {"attributes": {"codec": "none"}},
        {"attributes": None},
        {"fill_value": 1.0},
        {"codecs": []},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 8]}}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}},
    ],
    ids=lambda changes: "-".join(f"{k} {v}"[:24] for k, v in changes.items()),
)
def test_edited_array_metadata_are_found(root, changes):
    """Each field that decides how chunks are read is compared with setup and records."""
    edit(root / "features.zarr/set/embeddings/zarr.json", **changes)
    found = verify_store(root)
    assert not found.is_sound
    assert set(kinds(found)) <= {"array-damaged", "record-damaged"}
    assert repair_store(root).verification.is_sound
    assert verify_store(root).is_sound


def test_an_array_that_is_gone_leaves_records_that_are_removed(root):
    """Records of an array that was deleted vouch for nothing."""
    shutil.rmtree(root / "features.zarr/set/embeddings")
    found = verify_store(root)
    assert kinds(found) == ["array-missing"]
    repair_store(root)
    assert not (root / "commits/set/embeddings").exists()


def test_the_sample_table_is_compared_with_its_checksum(root):
    """A part that was changed cannot be repaired, and no unit is dropped because of it."""
    (part,) = (root / "samples.parquet").iterdir()
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)
    done = repair_store(root)
    assert kinds(done.verification) == ["samples-damaged"]
    assert done.repaired == ()
    assert len(list((root / "commits/set/embeddings").iterdir())) == 4


def test_an_edited_manifest_is_found(root):
    """A class name that was changed in store.json is no longer what its checksum is of."""
    path = root / "store.json"
    path.write_text(path.read_text().replace("class 1", "class 7"))
    assert kinds(verify_store(root)) == ["manifest-damaged"]
    path.write_bytes(b"{")
    assert kinds(repair_store(root).verification) == ["manifest-damaged"]


def test_setups_hash_to_their_names(root):
    """A changed configuration, changed tensors, and a lost setup are found and left alone."""
    array = Store.open(root).arrays("set")["pca/four"]
    setup = root / "setups" / array.fingerprint
    tensors = setup / "pca.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    assert "pca.safetensors" in only(verify_store(root)).found
    edit(setup / "config.json", schema=99)
    assert "fingerprint" in only(verify_store(root)).found
    shutil.rmtree(setup)
    assert kinds(repair_store(root).verification) == ["setup-missing"]


def test_a_damaged_setup_does_not_condemn_its_arrays(root):
    """Arrays are compared with a setup only where that is what its name says."""
    right = contents(root)
    array = Store.open(root).arrays("set")["embeddings"]
    path = root / "setups" / array.fingerprint / "config.json"
    data = path.read_bytes()
    edit(path, layout={"unit_rows": 8, "codec": "zstd"})
    done = repair_store(root)
    assert (kinds(done.verification), done.repaired) == (["setup-damaged"], ())
    path.write_bytes(data)
    assert are_equal(contents(root), right)


def test_leftovers_are_warnings_and_go(root):
    """Unfinished files, an uncounted part, stray records: a store is sound with them."""
    orphan = root / "features.zarr/set/embeddings/c/0" / f"0.{'a' * 32}.partial"
    part = root / "samples.parquet" / "part-00001.parquet"
    stray = root / "commits/set/embeddings/1.json"
    file = root / "indexes/set/exact/vectors-1.faiss"
    for path in (orphan, part, stray, file):
        path.write_bytes(b"x")
    found = verify_store(root)
    assert found.is_sound
    assert sorted(kinds(found)) == ["orphan", "orphan", "part-unreferenced", "record-stray"]
    done = repair_store(root)
    assert len(done.repaired) == 4
    assert not any(path.exists() for path in (orphan, part, stray, file))
    assert verify_store(root).findings == ()


def test_a_unit_that_lost_its_record_is_named(root):
    """Its chunk is an orphan, as a kill leaves one; a note says what is missing, and what makes it.

    What later stages made from the unit may be stale, which is theirs to say."""
    right = contents(root)
    data = (root / "commits/set/gradients/kl/00000002.json").read_bytes()
    (root / "commits/set/gradients/kl/00000002.json").unlink()
    found = verify_store(root)
    assert found.uncommitted == ("features.zarr/set/gradients/kl/c/2",)
    assert found.is_sound
    orphans = [finding.where for finding in found.findings if finding.kind == "orphan"]
    assert orphans == ["features.zarr/set/gradients/kl/c/2"]
    (note,) = found.notes
    assert note.startswith("set/gradients/kl: 1 of 4 units are not made: fungi extract")
    chunk = root / "features.zarr/set/gradients/kl/c/2/0"
    assert repair_store(root).repaired == ()  # it is whole, and may have lost its record only
    chunk.write_bytes(chunk.read_bytes()[:-1])
    done = repair_store(root)
    assert not chunk.exists()
    assert any("fungi extract" in command for command in done.commands)
    (root / "commits/set/gradients/kl/00000002.json").write_bytes(data)
    assert "chunk-missing" in kinds(verify_store(root))
    assert not are_equal(contents(root), right)


def test_chunks_being_written_are_no_orphans(root):
    """While another process writes, a chunk may be there before its record."""
    (root / "commits/set/gradients/kl/00000002.json").unlink()
    with Store.open(root).writing():
        found = verify_store(root)
    assert "orphan" not in kinds(found)
    assert found.uncommitted == ("features.zarr/set/gradients/kl/c/2",)


def test_damaged_digests_of_items_go(root):
    """One flipped byte, or a unit that no array has: named, and removed by a repair."""
    noted = ItemDigests(Store.open(root).backend, "set")
    for unit in (0, 1, 99):
        noted.add(unit, 0, np.arange(16, dtype=np.uint64), 0)
    assert noted.read(0, 17).tolist() == [*range(16), UNKNOWN]
    path = root / "contents/set/00000001.bin"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert not noted.read(1, 16).any()
    found = verify_store(root).findings
    assert [(f.kind, f.where) for f in found] == [
        ("digests-damaged", f"contents/set/{name}.bin") for name in ("00000001", "00000099")
    ]
    repair_store(root)
    assert verify_store(root).findings == ()
    assert noted.sizes() == {0: 16 * 8 + 4}


def test_unreadable_lines_of_failed_inputs_go(root):
    """A line cut short is dropped; the others stay as they are, with fields of newer versions."""
    good = {"row": 5, "uri": "5.jpg", "error": "E", "message": "m", "feature_set": "set", "new": 1}
    lines = [json.dumps(good), '{"row": 6, "uri', json.dumps(good | {"row": 999}), "[]"]
    (root / "failures.jsonl").write_text("\n".join(lines))
    assert kinds(verify_store(root)) == ["failures-damaged"]
    repair_store(root)
    assert (root / "failures.jsonl").read_text() == lines[0] + "\n"


def test_features_made_anew_make_later_results_stale(root):
    """What was made from other features is named: results refuse them, an evaluation is history."""
    remake(root)
    found = verify_store(root)
    said = {(finding.kind, finding.severity) for finding in found.findings}
    assert said == {
        ("pca-stale", "error"),
        ("index-stale", "error"),
        ("head-stale", "error"),
        ("eval-stale", "warning"),
    }
    done = repair_store(root)
    assert [finding.where for finding in done.repaired] == ["indexes/set/exact"]
    assert kinds(done.verification) == ["head-stale", "pca-stale", "eval-stale"]
    assert (root / "heads/set/h/config.json").exists()


def test_units_made_anew_with_other_values_make_an_index_stale(root):
    """The setup is the same, the content is not: the index has vectors that are not there."""
    store = Store.open(root)
    array = store.arrays("set")["gradients/kl"]
    ids = array.commit(1).ids
    array.publish(1, np.ones((16, 8), np.float32), ids, 0)
    found = verify_store(root)
    assert set(kinds(found)) == {"eval-stale", "index-stale", "pca-stale"}
    assert {finding.kind for finding in found.errors} == {"index-stale"}


def test_an_index_waits_for_units_that_were_dropped(root):
    """Between a repair and the next extract, an index is not blamed: it fits again afterwards."""
    chunk = root / "features.zarr/set/gradients/kl/c/1/0"
    data = chunk.read_bytes()
    record = root / "commits/set/gradients/kl/00000001.json"
    text = record.read_bytes()
    chunk.write_bytes(data[:9])
    assert kinds(verify_store(root)) == ["chunk-damaged"]
    assert repair_store(root).verification.is_sound
    found = verify_store(root)
    assert found.is_sound
    assert set(kinds(found)) == {"index-stale"}  # warnings
    chunk.write_bytes(data)
    record.write_bytes(text)
    assert verify_store(root).findings == ()


@pytest.mark.parametrize("what", ["record", "fields", "file", "short file", "no file"])
def test_a_damaged_index_is_removed_and_its_command_named(root, what):
    """An index can be made again, so it is not kept where it is not what its record says."""
    folder = root / "indexes/set/graph"
    (vectors,) = folder.glob("vectors-*")
    if what == "record":
        (folder / "index.json").write_bytes(b"{")
    elif what == "fields":
        path = folder / "index.json"
        path.write_text(path.read_text().replace("efSearch", "efsearch").replace("asked", "azked"))
    elif what == "file":
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"?")
    elif what == "short file":
        vectors.write_bytes(b"")
    else:
        vectors.unlink()
    assert only(verify_store(root)).kind == "index-damaged"
    done = repair_store(root)
    assert not folder.exists()
    assert done.commands[0].startswith(f"fungi index {root} --feature-set set --name graph")
    assert verify_store(root).findings == ()


@pytest.mark.parametrize("file", ["config.json", "state.json", "weights"])
def test_a_damaged_head_is_named_and_kept(root, file):
    """Hours of training are not thrown away by a program."""
    folder = root / "heads/set/h"
    path = next(folder.glob("state-*")) if file == "weights" else folder / file
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    done = repair_store(root)
    assert kinds(done.verification) == ["head-damaged"]
    assert "fungi train-loff" in done.verification.findings[0].repair
    assert path.read_bytes() == data


def test_a_setup_that_was_not_frozen_to_its_end_is_a_leftover(root):
    """Files without a configuration, as a kill leaves them, are removed; used setups never are."""
    half = root / "setups" / ("0" * 32)
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    finding = only(verify_store(root))
    assert (finding.kind, finding.severity) == ("orphan", "warning")
    assert repair_store(root).verification.findings == ()
    assert not half.exists()
    array = Store.open(root).arrays("set")["pca/four"]
    (root / "setups" / array.fingerprint / "config.json").unlink()
    assert kinds(repair_store(root).verification) == ["setup-damaged"]


def test_edited_scores_of_an_evaluation_are_found(root):
    """A saved evaluation has a checksum; one that has lost it proves nothing."""
    (path,) = (root / "evals").iterdir()
    document = json.loads(path.read_bytes())
    document["scores"][0]["metrics"]["accuracy"] = 1.0
    path.write_text(json.dumps(document))
    finding = only(verify_store(root))
    assert (finding.kind, finding.severity) == ("eval-damaged", "error")
    assert "edited" in finding.found
    del document["checksum"]
    path.write_text(json.dumps(document))
    assert "edited" in only(verify_store(root)).found


def test_a_damaged_evaluation_is_found(root):
    """The name of an evaluation's file is a digest of its protocol and its sources."""
    (path,) = (root / "evals").iterdir()
    edit(path, protocol={"k": 4})
    assert kinds(verify_store(root)) == ["eval-damaged"]


def test_repeated_ids_and_rows_out_of_order_are_found(tmp_path):
    """A table whose replacing was killed has no checksum: what it says is checked all the same."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors, labels = clustered(20, 2, 4)
    root = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels).root
    document = json.loads((root / "store.json").read_bytes())
    document["parts"][0]["checksum"] = None
    (root / "store.json").write_text(json.dumps(sealed(document)))
    assert verify_store(root).is_sound
    (part,) = (root / "samples.parquet").iterdir()
    table = pq.read_table(part)
    ids = table["id"].to_pylist()
    doubled = table.set_column(1, "id", pa.array([ids[1], *ids[1:]]))
    pq.write_table(doubled, part)
    assert "000001.jpg" in only(verify_store(root)).found
    pq.write_table(table.take(pa.array([1, 0, *range(2, 20)])), part)
    assert "order" in only(verify_store(root)).found
    renamed = table.set_column(1, "id", pa.array(["new", *ids[1:]]))
    pq.write_table(renamed, part)
    finding = only(verify_store(root))
    assert (finding.kind, finding.remedy) == ("ids-differ", None)  # which is wrong, nobody knows


def test_digests_of_ranges_are_those_of_their_ids(root):
    """Ranges may overlap, meet, and lie beyond the table."""
    from fungistore.fingerprint import digest_ids

    store = Store.open(root)
    ids = [row["id"] for row in store.samples.rows(0, ROWS)]
    ranges = {(0, 16), (0, 4), (8, 40), (16, 32), (59, 60), (32, 99)}
    found = digests_of_ranges(store, ranges, QUIET)
    assert found == {(a, b): digest_ids(ids[a:b]) for a, b in ranges if b <= ROWS}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_counted_as_numpy_counts_them(dtype):
    """NaN and infinities of both signs, zeros of both signs, and rows with several of them."""
    odd = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, np.finfo(dtype).tiny / 2]
    rows = np.random.default_rng(0).choice(odd, (500, 3), p=[0.05] * 4 + [0.3] * 2 + [0.1] * 2)
    rows = rows.astype(dtype)
    expected = (np.isnan(rows).any(1), np.isinf(rows).any(1), (rows == 0).all(1))
    assert count_rows(rows) == Counts(*(int(mask.sum()) for mask in expected))


def test_a_unit_larger_than_the_budget_still_gets_its_turn():
    """Wanting more than there is means waiting for all of it."""
    budget = Budget(10)
    with budget.taking(1000):
        pass
    with budget.taking(4), budget.taking(6):
        pass


def test_while_another_process_writes_verify_reads_and_repair_refuses(root):
    """Leftovers may be the writer's own files, so they are no findings."""
    (root / "commits/set" / f".x.{'a' * 32}.partial").write_bytes(b"")
    said = []
    with Store.open(root).writing():
        found = verify_store(root, context=Context(Notices(said)))
        with pytest.raises(FungiError, match="another process is writing"):
            repair_store(root)
    assert found.is_being_written
    assert found.findings == ()
    assert any("being written" in line for line in said)
    assert kinds(verify_store(root)) == ["orphan"]


def test_verify_stops_on_request(root):
    """A signal ends it between units."""
    with pytest.raises(StoppedError):
        verify_store(root, context=Context(stop=lambda: True))


def test_no_store_is_a_usage_error(tmp_path):
    """Both say how to make one."""
    for run in (verify_store, repair_store):
        with pytest.raises(UsageError, match="not a fungi store"):
            run(tmp_path)


def test_the_command_exits_5_on_damage_and_0_when_repaired(root):
    """--json is one object; the table names each finding and what --repair would do."""
    clean = runner.invoke(app, ["verify", str(root), "--json"])
    assert clean.exit_code == 0, clean.stderr
    assert json.loads(clean.stdout)["sound"] is True
    (root / "features.zarr/set/embeddings/c/1/0").unlink()
    shown = runner.invoke(app, ["verify", str(root)])
    assert shown.exit_code == 5
    assert "chunk-missing" in shown.stdout
    assert "DAMAGED: 1 error," in shown.stdout
    assert f"next: fungi verify {root} --repair" in shown.stderr
    listed = runner.invoke(app, ["verify", str(root), "--json"])
    assert listed.exit_code == 5
    (finding,) = json.loads(listed.stdout)["findings"]
    assert (finding["kind"], finding["repairable"]) == ("chunk-missing", True)
    mended = runner.invoke(app, ["verify", str(root), "--repair", "--json"])
    assert mended.exit_code == 0
    assert len(json.loads(mended.stdout)["repaired"]) == 1
    assert "fungi extract" in mended.stderr
    (root / "store.json").write_bytes(b"{")
    broken = runner.invoke(app, ["verify", str(root), "--repair"])
    assert broken.exit_code == 5
    assert "cannot be repaired" in " ".join(broken.stdout.split())


@pytest.mark.parametrize("codec", ["none", "zstd", "bitround"])
def test_tensorstore_reads_the_same_numbers(tmp_path, codec):
    """Another implementation of zarr v3 opens the arrays of a store, whatever their codec."""
    tensorstore = pytest.importorskip("tensorstore")
    from fungistore.store.units import UnitArray

    values = np.random.default_rng(0).normal(size=(20, 3, 3, 8)).astype(np.float16)
    array = UnitArray.create(
        LocalBackend(tmp_path),
        "set/patches",
        shape=values.shape,
        dtype="float16",
        unit_rows=8,
        codec=codec,
        fingerprint="f",
    )
    for unit in range(array.units):
        array.publish(unit, values[unit * 8 : unit * 8 + 8], "ids", 0)
    path = str(tmp_path / "features.zarr" / "set" / "patches")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    read = np.asarray(tensorstore.open(spec, read=True).result().read().result())
    assert read.dtype == np.float16
    assert read.tobytes() == array.read(0, 20).tobytes()
    if codec != "bitround":
        assert read.tobytes() == values.tobytes()


def test_a_chunk_of_many_pieces_is_checked_to_its_last_byte(tmp_path):
    """Chunks are read piece by piece: a sound one passes, NaN in any piece are counted, and a
    changed byte is found in the first and last row, beyond the rows, and in the CRC-32C."""
    rows, width = 900, 256  # of 1024: the last piece has a part that no row fills
    vectors, labels = clustered(rows, 3, width)
    vectors[[0, 450, 899]] = np.nan
    vectors[600] = 0
    root = make_store(tmp_path / "s", {"embeddings": vectors}, labels, unit_rows=1024).root
    (chunk,) = (path for path in root.glob("features.zarr/set/embeddings/c/*/*"))
    assert chunk.stat().st_size > 3 * PIECE_BYTES
    found = verify_store(root)
    assert found.findings == ()
    (counts,) = found.arrays
    assert (counts.nan_rows, counts.zero_rows) == (3, 1)
    data = chunk.read_bytes()
    row = 4 * width
    for at in (5, 899 * row + 2, 1000 * row, 1024 * row + 1):
        changed = bytearray(data)
        changed[at] ^= 1
        chunk.write_bytes(changed)
        assert kinds(verify_store(root)) == ["chunk-damaged"], at
    for other in (data + b"\0", data[:-1]):
        chunk.write_bytes(other)
        assert kinds(verify_store(root)) == ["chunk-damaged"]
