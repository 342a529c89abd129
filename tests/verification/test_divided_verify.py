"""Units checked by workers give the findings of one process, in its order."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fungi_cli.main import app
from typer.testing import CliRunner

from engine_world import OddTurns, files_of
from feature_world import clustered, make_store
from fungistore.engines.engine import Local
from fungistore.errors import StoppedError, UsageError
from fungistore.machine.context import Context
from fungistore.store.locks import Slice
from fungistore.verification.repair import repair_store
from fungistore.verification.verify import verify_store


@pytest.fixture
def root(tmp_path):
    """A store of two arrays with a few things wrong."""
    vectors, labels = clustered(200, 3, 12, seed=4)
    vectors[3] = np.nan
    arrays = {"embeddings": vectors, "gradients/kl": vectors[:, ::-1].copy()}
    root = tmp_path / "s.fungi"
    make_store(root, arrays, labels)
    chunks = root / "features.zarr" / "set" / "embeddings" / "c"
    data = bytearray((chunks / "7" / "0").read_bytes())
    data[11] ^= 1
    (chunks / "7" / "0").write_bytes(data)
    (chunks / "2" / "0").unlink()
    record = root / "commits" / "set" / "gradients" / "kl" / "00000005.json"
    record.write_text(record.read_text().replace('"nan_rows": 0', '"nan_rows": 4'))
    (root / "commits" / "set" / "gradients" / "kl" / "00000009.json").write_text("{")
    return root


@pytest.mark.parametrize("slices", [1, 4, 40])
def test_workers_find_what_one_process_finds(root, slices):
    """Damaged and missing chunks, records that lie: equal findings, counts and order."""
    alone = verify_store(root)
    before = files_of(root)
    divided = verify_store(root, engine=OddTurns(slices))
    assert len(alone.errors) == 4
    assert replace(divided, seconds=0) == replace(alone, seconds=0)
    assert files_of(root) == before


def test_commands_name_the_store_as_the_user_does(root, monkeypatch):
    """A relative path stays one, as in the findings of one process."""
    monkeypatch.chdir(root.parent)
    divided = verify_store(root.name, engine=OddTurns())
    assert divided.to_json()["findings"] == verify_store(root.name).to_json()["findings"]
    assert "fungi extract SOURCE s.fungi" in str(divided.to_json())


def test_a_repair_reads_with_workers_too(root):
    """What is dropped is what one process drops."""
    done = repair_store(root, engine=OddTurns())
    assert [one.kind for one in done.repaired] == [
        "chunk-damaged",
        "chunk-missing",
        "counts-differ",
        "record-damaged",
    ]
    assert verify_store(root, engine=OddTurns()).is_sound


def test_a_worker_that_sees_less_leaves_it_to_this_process(root):
    """A unit that came after the workers had looked is checked here."""
    alone = verify_store(root)

    class Blind:
        def run(self, work, context):
            run = Local().run(work, context)[0]
            return [{"units": [one for one in run["units"] if one["unit"] % 3]}]

    assert replace(verify_store(root, engine=Blind()), seconds=0) == replace(alone, seconds=0)


def test_a_stop_ends_it(root):
    """As one process: between units."""
    asked = iter([False] * 30)
    stop = Context(stop=lambda: next(asked, True))
    with pytest.raises(StoppedError):
        verify_store(root, engine=OddTurns(), context=stop)
    with pytest.raises(UsageError, match="started by hand"):
        verify_store(root, engine=Local(Slice(1, 2)))


@pytest.mark.slow
def test_the_command_divides(root):
    """`--processes 2` prints the same JSON, but for the seconds."""
    found = []
    for flags in ([], ["--processes", "2"]):
        done = CliRunner().invoke(app, ["verify", str(root), "--json", *flags])
        assert done.exit_code == 5
        found.append(json.loads(done.stdout) | {"seconds": 0})
    assert found[0] == found[1]
