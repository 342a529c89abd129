"""A Ray cluster on a store in a bucket, most things failing: the store of one process on a disk."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fault_proxy import Faults, proxied
from fungistore.copying.stage import copy_store
from fungistore.extraction.stage import extract
from fungistore.machine.context import QUIET
from fungistore.pca.options import PcaOptions
from fungistore.pca.stage import fit_pca
from fungistore.remote.bucket import forget_buckets
from fungistore.verification.verify import verify_store
from ray_world import PATIENCE, asked, driver, gate, nodes, wait_until_at_work, words, world
from s3_world import bucket, s3_server
from stage_world import FUNGI
from tiny_world import contents

__all__ = ["bucket", "s3_server"]  # fixtures
UNITS, UNIT_ROWS = 40, 4


def ray(command: list[str], folder: Path, address: str) -> dict[str, Any]:
    """Run a command on the cluster to its end; return what it prints."""
    flags = ("--engine", "ray", "--address", address, "--json")
    done = subprocess.run(
        [*FUNGI, *command, *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.scale
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_node_dies_another_joins_and_the_driver_is_stopped(
    rate: float,
    s3_server: str,
    bucket: str,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No record is put twice, whether all requests are served or one in ten is broken."""
    world(tmp_path, UNITS * UNIT_ROWS)
    options = asked(tiny_weights, UNIT_ROWS)
    url, whole = f"{bucket}/s.fungi", tmp_path / "whole.fungi"
    extract(tmp_path / "images", whole, options)
    command = words(options, url)
    faults = Faults(rate=rate, timeout=0.5)
    with proxied(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_buckets()
        with nodes(tmp_path / "log") as cluster:
            flags = [*command, "--engine", "ray", "--address", cluster.address, "--json"]
            with driver(flags, tmp_path) as first:
                wait_for_records(faults, first)
                at_work = wait_until_at_work(url, options.name, 2)
                cluster.kill()
                assert first.stderr is not None
                assert any("its units are placed again" in line for line in first.stderr)
                cluster.add()
                wait_until_at_work(url, options.name, 1, at_work)
                with gate(url, options.name):
                    first.send_signal(signal.SIGTERM)
                    out, err = first.communicate(timeout=PATIENCE)
                assert first.returncode == 75, err
                assert json.loads(out)["exit_code"] == 75
            before = len(records(faults))
            done = ray(command, tmp_path, cluster.address)
            assert 0 < before < len(records(faults))
            checked = ray(["verify", url], tmp_path, cluster.address)
            fitted = ray(["pca", url, "--dim", "8", "--name", "p"], tmp_path, cluster.address)
    assert rate == 0 or sum(faults.broken.values()) > UNITS
    assert done["units"]["done"] == done["units"]["total"] == UNITS
    assert 0 < done["units"]["computed"] < UNITS
    assert checked["findings"] == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    forget_buckets()
    pca = fit_pca(whole, PcaOptions(dim=8, name="p"))
    assert fitted["fingerprint"] == pca.fingerprint
    assert len(records(faults)) == 4 * UNITS  # embeddings, gradients, their norms, coordinates
    assert set(records(faults).values()) == {1}
    assert verify_store(url).findings == ()
    copy_store(url, tmp_path / "down.fungi", context=QUIET)
    assert contents(tmp_path / "down.fungi") == contents(whole)


def records(faults: Faults) -> dict[str, int]:
    """Return how often the server took each unit's record."""
    return {
        path: count
        for path, count in faults.stored.copy().items()
        if "/commits/" in path and path.endswith(".json")
    }


def wait_for_records(faults: Faults, running: subprocess.Popen[str]) -> None:
    """Wait for the first record."""
    deadline = time.monotonic() + PATIENCE
    while not records(faults):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
