"""A second S3 server, npm's s3rver, which ignores conditions and leaves folders out of lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from url_writer import prepare, write

from fungistore.remote.bucket import forget_buckets
from fungistore.store.backend import open_backend
from fungistore.store.locks import WHOLE
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from npm_world import npm_server
from s3_world import OTHERS, environment, free_port

S3RVER = "s3rver@3.7.1"
KEY = "S3RVER"  # the only one that it knows


@pytest.fixture
def s3rver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of its bucket."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    place = ("-d", "data", "-a", "127.0.0.1", "-p", str(port))
    options = ("--allow-mismatched-signatures", "--configure-bucket", "bucket-one")
    with npm_server(S3RVER, "s3rver", tmp_path, f"{url}/", *place, *options):
        for name in OTHERS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment(url).items():
            monkeypatch.setenv(name, KEY if "KEY" in name else value)
        forget_buckets()
        yield "s3://bucket-one/s.fungi"
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
