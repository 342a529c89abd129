"""Writers of one store in a bucket that are stopped, woken, killed and cut off: real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import url_writer
from url_writer import prepare, write

from fault_proxy import Faults, proxied
from fungistore.errors import FungiError
from fungistore.remote.bucket import forget_buckets, open_bucket
from fungistore.store.backend import open_backend
from fungistore.store.locks import WHOLE
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from s3_world import bucket, s3_server

__all__ = ["bucket", "s3_server"]  # fixtures
SCRIPT = Path(url_writer.__file__)
CHUNK, RECORD = "features.zarr/set/embeddings/c/1/0", "commits/set/embeddings/00000001.json"
SECONDS = 60
KILLS = 6
LEASE = 8.0  # a server's answers may take seconds on a busy machine


def start(place: str, seed: int = 0, part: str = "0/1", lease: float = 60, *stop: str):
    """Start a writer."""
    command = [sys.executable, str(SCRIPT), place, str(seed), part, str(lease), *stop]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return how a writer ended, and what it said."""
    said, _ = process.communicate(timeout=SECONDS)
    return process.returncode, said


def data_of(place: str) -> dict[str, bytes]:
    """Return what counts of a store: chunks, metadata, records, failures."""
    backend, found, waiting = open_backend(place), {}, ["features.zarr", "commits"]
    while waiting:
        key = waiting.pop()
        listing = backend.list(key)
        waiting += [f"{key}/{name}" for name in listing.folders]
        found |= {f"{key}/{name}": backend.read(f"{key}/{name}") for name in listing.files}
    lines = sorted(backend.read("failures.jsonl").splitlines())
    return found | {"failures.jsonl": b"\n".join(lines)}


def alone(folder: Path, units: int) -> dict[str, bytes]:
    """Return what one writer makes in a directory."""
    prepare(str(folder), units)
    write(open_backend(folder), 0, WHOLE)
    return data_of(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("key", [CHUNK, RECORD])
def test_a_writer_stopped_past_its_lease_is_refused(
    bucket: str, tmp_path: Path, key: str, request: pytest.FixtureRequest
) -> None:
    """Before a chunk's put, or between a chunk and its record; another finishes; it is woken."""
    place = f"{bucket}/s.fungi"
    prepare(place, 4)
    late = start(place, 0, "0/1", LEASE, key)
    request.addfinalizer(late.kill)
    assert os.WIFSTOPPED(os.waitpid(late.pid, os.WUNTRACED)[1])
    with pytest.raises(FungiError, match="another process is writing features/set"):
        write(open_backend(place), 0, WHOLE)
    end = time.monotonic() + SECONDS
    while finish(start(place))[0]:  # until the lease has run out
        assert time.monotonic() < end
    before = data_of(place)
    late.send_signal(signal.SIGCONT)
    code, said = finish(late)
    assert (code, said.split()[0]) == (1, "LeaseLostError")
    assert "run the same command again" in said
    assert data_of(place) == before == alone(tmp_path / "s.fungi", 4)
    Store.open(place).sweep()
    assert verify_store(place).findings == ()


@pytest.mark.slow
def test_two_processes_write_two_slices_at_once(bucket: str, tmp_path: Path) -> None:
    """And the store is that of one."""
    place = f"{bucket}/s.fungi"
    prepare(place, 8)
    writers = [start(place, 0, part) for part in ("0/2", "1/2")]
    assert [finish(one) for one in writers] == [(0, ""), (0, "")]
    assert data_of(place) == alone(tmp_path / "s.fungi", 8)
    assert verify_store(place).findings == ()


@pytest.mark.scale
def test_killed_at_random_and_cut_off_the_store_is_that_of_one(
    s3_server: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request in ten is broken, and the writer is killed again and again."""
    units, place, chance = 24, f"{bucket}/s.fungi", random.Random(0)
    prepare(place, units)
    faults, kills = Faults(rate=0.1, timeout=0.5), 0
    with proxied(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_buckets()
        while True:
            # by requests, not by time: a busy machine gets as far as an idle one
            end = sum(faults.requests.values()) + chance.randint(30, 130)
            writer = start(place, 0, "0/1", 20.0)
            while writer.poll() is None and (kills == KILLS or sum(faults.requests.values()) < end):
                time.sleep(0.002)
            if writer.poll() is not None:
                assert finish(writer) == (0, "")
                break
            writer.kill()
            writer.communicate()
            kills += 1
        assert verify_store(place).errors == ()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    forget_buckets()
    assert kills > 2
    assert sum(faults.broken.values()) > units / 2
    assert data_of(place) == alone(tmp_path / "s.fungi", units)
    Store.open(place).sweep()
    assert verify_store(place).findings == ()
    assert not [one for one in open_bucket(place).below() if one.key.startswith(".appended")]
