"""A real S3 server, moto's, as a child process: import `s3_server` and `bucket` where wanted."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTINGONLY",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
    "AWS_REGION": "us-east-1",
}
OTHERS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3")
START_SECONDS = 60


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once a server answers, whatever it says."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no server at {url}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a child process, by its pid."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment(endpoint: str) -> dict[str, str]:
    """Return the variables with which obstore, boto3 and our commands find a server."""
    return {**KEYS, "AWS_ENDPOINT_URL": endpoint}


def make_bucket(endpoint: str) -> str:
    """Make a bucket of a new name; returns the name."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()
    return name


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of one server for all tests."""
    port = free_port()
    log = Path(tmp_path_factory.mktemp("moto"), "log")
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            wait_for(f"http://127.0.0.1:{port}/moto-api/", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            end(process)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of a new bucket, and an environment in which it is found."""
    from fungistore.remote.bucket import forget_buckets

    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    forget_buckets()  # of another endpoint
    return f"s3://{make_bucket(s3_server)}"
