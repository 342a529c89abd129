"""A cluster as `ray start` makes it: with a token, and joined from outside through a client."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ray_world import PATIENCE
from s3_world import free_port
from tiny_world import TINY, contents, write_images

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
FLAGS = [
    *("--model", TINY, "--image-size", "32", "--features", "embeddings,kl", "--device", "cpu"),
    *("--dtype", "float32", "--batch-size", "4", "--unit-rows", "4", "--workers", "1", "--json"),
]


@contextmanager
def head(log: Path, *, client: int) -> Iterator[int]:
    """Yield the port of a head with a token and one core, as `ray start` makes it."""
    port = free_port()
    folder = tempfile.mkdtemp(prefix="fr-", dir="/tmp")  # paths of sockets are short
    command = [
        *(
            sys.executable,
            "-c",
            "import sys; from ray.scripts.scripts import main; sys.exit(main())",
        ),
        *("start", "--head", "--block", "--port", str(port), "--num-cpus", "1"),
        *("--ray-client-server-port", str(client), "--include-dashboard=false"),
        *("--temp-dir", folder, "--object-store-memory", str(80 * 2**20)),
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | TOKEN, start_new_session=True
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, store: str, weights: Path, token: dict[str, str], *flags: str) -> str:
    """Run `fungi extract` in a home without a token, and return its result."""
    kept = {name: value for name, value in os.environ.items() if name not in TOKEN}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fungi_cli", "extract", "images", store),
            *(*FLAGS, "--weights", str(weights), *flags),
        ],
        cwd=folder,
        env=kept | token | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.scale
def test_a_cluster_with_a_token_is_joined_by_its_address_and_by_a_client(
    tmp_path: Path, tiny_weights: Path
) -> None:
    """Both make the store of one process; without the token the error says how to give it."""
    pytest.importorskip("grpc", reason="ray:// needs fungistore[ray-client]")
    for seed, label in enumerate(("cat", "dog")):
        write_images(tmp_path / "images" / label, 8, seed=seed)
    run(tmp_path, "whole.fungi", tiny_weights, {})
    client = free_port()
    with head(tmp_path / "log", client=client) as port:
        ray = ("--engine", "ray", "--address")
        for place in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"):
            error = json.loads(run(tmp_path, "no.fungi", tiny_weights, {}, *ray, place))
            assert error["exit_code"] == 2
            assert "RAY_AUTH_MODE=token" in error["error"]["try"]
            store = f"{place.partition(':')[0]}.fungi"
            done = json.loads(run(tmp_path, store, tiny_weights, TOKEN, *ray, place))
            assert done["units"]["done"] == 4
            assert sum(node["units"] for node in done["nodes"]) == 4
            assert contents(tmp_path / store) == contents(tmp_path / "whole.fungi")


@pytest.mark.slow
def test_a_cluster_of_its_own_leaves_no_token(tmp_path: Path, tiny_weights: Path) -> None:
    """Ray's own way is a token in the home, which every later cluster would ask for."""
    write_images(tmp_path / "images" / "cat", 8)
    ray = ("--engine", "ray", "--address", "local")
    assert json.loads(run(tmp_path, "s.fungi", tiny_weights, {}, *ray))["units"]["done"] == 2
    assert not (tmp_path / ".ray").exists()
