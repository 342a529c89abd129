"""A second S3 server, npm's s3rver, which ignores conditions and leaves folders out of lists."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from url_writer import prepare, write

from fungistore.remote.bucket import forget_buckets
from fungistore.store.backend import open_backend
from fungistore.store.locks import WHOLE
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from s3_world import OTHERS, end, environment, free_port, wait_for

S3RVER = "s3rver@3.7.1"
KEY = "S3RVER"  # the only one that it knows


@pytest.fixture
def s3rver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of its bucket."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm and node are not installed")
    command = [npm, "install", "--no-audit", "--no-fund", "--silent", S3RVER]
    if subprocess.run(command, cwd=tmp_path, check=False, timeout=300).returncode != 0:
        pytest.skip(f"npm cannot install {S3RVER}")
    port = free_port()
    script = tmp_path / "node_modules" / ".bin" / "s3rver"
    place = ["-d", str(tmp_path / "data"), "-a", "127.0.0.1", "-p", str(port)]
    options = ["--allow-mismatched-signatures", "--configure-bucket", "bucket-one"]
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen([node, str(script), *place, *options], stdout=out, stderr=out)
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        for name in OTHERS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment(f"http://127.0.0.1:{port}").items():
            monkeypatch.setenv(name, KEY if "KEY" in name else value)
        forget_buckets()
        yield "s3://bucket-one/s.fungi"
    finally:
        end(process)
        forget_buckets()


@pytest.mark.scale
def test_one_writer_works_on_s3rver(
    s3rver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same bytes as on a disk, clean when verified; that two writers would not is said."""
    folder = str(tmp_path / "s.fungi")
    for place in (s3rver, folder):
        prepare(place, 6)
        write(open_backend(place), 0, WHOLE)
    assert "ignores conditional puts" in caplog.text
    arrays = [Store.open(place).arrays("set")["embeddings"] for place in (s3rver, folder)]
    remote, local = (array.read(0, array.rows) for array in arrays)
    assert remote.tobytes() == local.tobytes()
    assert arrays[0].commits() == arrays[1].commits()
    assert Store.open(s3rver).failures() == Store.open(folder).failures()
    assert verify_store(s3rver).findings == ()
