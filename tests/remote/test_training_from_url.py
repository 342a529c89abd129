"""Heads and DataLoaders read a store at a URL: the same rows, a second time without a request."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from feature_world import make_store
from fungistore.errors import FungiError
from fungistore.loff.head_folder import head_run
from fungistore.loff.options import TrainOptions
from fungistore.loff.train import train_loff
from fungistore.remote.bucket import forget_buckets
from fungistore.store.store import Store
from plain_s3 import BUCKET, PlainS3
from s3_world import environment

ROWS, SIDE, CHANNELS = 96, 4, 8
EPOCHS = (1, 3)


@pytest.fixture(params=[("none", 1), ("none", 4), ("zstd", 1), ("zstd", 4)])
def layout(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Chunks or shards, which are plain arrays or compressed."""
    return dict(zip(("codec", "shard_units"), request.param, strict=True))


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return store_of(tmp_path)


def store_of(tmp_path: Path, **layout: Any) -> Store:
    random = np.random.default_rng(0)
    patches = random.normal(size=(ROWS, SIDE, SIDE, CHANNELS)).astype(np.float16)
    labels = [f"class {row % 3}" for row in range(ROWS)]
    splits = ["test" if row % 4 == 0 else "train" for row in range(ROWS)]
    blocks = {"patches": patches, "embeddings": patches.mean(axis=(1, 2)).astype(np.float16)}
    return make_store(tmp_path / "s.fungi", blocks, labels, splits, unit_rows=32, **layout)


@pytest.fixture
def server(local: Store, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainS3]:
    made = PlainS3()
    made.load(local.root)
    for name, value in environment(f"http://127.0.0.1:{made.server_address[1]}").items():
        monkeypatch.setenv(name, value)
    forget_buckets()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    forget_buckets()


URL = f"s3://{BUCKET}/s.fungi"


def options(epochs: int) -> TrainOptions:
    return TrainOptions(
        head="linear", name=f"h{epochs}", epochs=epochs, batch_size=16, dtype="float32"
    )


def weights(store: Store, name: str) -> dict[str, bytes]:
    folder = head_run(store, "set", name).folder
    names = [one for one in folder.list().files if one.endswith(".safetensors")]
    assert names
    return {one: folder.read(one) for one in names}


def test_a_head_is_trained_from_a_url(local: Store, server: PlainS3) -> None:
    """Its weights are those of the directory, and further epochs read no object again."""
    chunks = []
    for epochs in EPOCHS:
        train_loff(local.root, options(epochs))
        server.gets.clear()
        train_loff(URL, options(epochs))
        name = f"h{epochs}"
        assert weights(Store.open(URL), name) == weights(local, name)
        chunks.append([key for key in server.gets if "/c/" in key])
    assert chunks[0]
    assert chunks[1] == []  # of three epochs, with the cache of the first run


def test_no_chunk_is_looked_at_before_it_is_read(
    server: PlainS3, tmp_path: Path, layout: dict[str, Any]
) -> None:
    """A listing tells what is there; from compressed chunks, too, which are read in each epoch."""
    local = store_of(tmp_path / "of a layout", **layout)
    server.load(local.root)
    asked = replace(options(3), head="stat-pool", cache="none")
    train_loff(local.root, asked)
    train_loff(URL, asked)
    assert any("/c/" in key for key in server.gets)
    assert not [key for key in server.looks if "/c/" in key]
    assert weights(Store.open(URL), "h3") == weights(local, "h3")


def test_a_forked_loader_is_told_what_to_do(server: PlainS3) -> None:
    """obstore's threads are not in a forked worker: it says so at once, and does not hang."""
    dataset = Store.open(URL).dataset("patches")
    loader = DataLoader(
        dataset, batch_size=16, num_workers=1, timeout=60, multiprocessing_context="fork"
    )
    with pytest.raises(FungiError, match="a forked process cannot read from a URL"):
        next(iter(loader))
    gc.collect()  # of the error's frames, which keep the forked worker
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_loader_of_new_processes_reads_a_url(local: Store, server: PlainS3) -> None:
    """Spawned workers give the rows of the directory, the second epoch without any request."""
    rows = local.dataset("patches").__getitems__(range(ROWS))
    expected = {row["row"]: row["patches"] for row in rows}
    dataset = Store.open(URL).dataset("patches")
    loader = DataLoader(
        dataset, batch_size=16, num_workers=2, shuffle=True, multiprocessing_context="spawn"
    )
    for epoch in range(2):
        server.requests.clear()
        seen = 0
        for batch in loader:
            for row, patches in zip(batch["row"].tolist(), batch["patches"], strict=True):
                assert patches.equal(expected[row])
                seen += 1
        assert seen == ROWS
        assert (server.requests.total() == 0) == (epoch == 1)
