"""Copying and reading through a real S3 server behind a network that breaks one request in ten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fault_proxy import Faults, proxied
from feature_world import clustered, make_store
from fungistore.copying.stage import copy_store
from fungistore.machine.context import QUIET
from fungistore.matrices.blocks import open_features
from fungistore.remote.bucket import open_bucket
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from s3_world import bucket, s3_server

__all__ = ["bucket", "s3_server"]


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_copy_over_a_broken_network_is_the_same(
    bucket: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up and down again at 10 % faults: the same files, each compared by the server's MD5."""
    vectors, labels = clustered(400, 3, 6)
    store = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    url = f"{bucket}/s.fungi"
    faults = Faults(rate=0.1, timeout=0.5, seed=3)
    with proxied(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        open_bucket.cache_clear()
        done = copy_store(store, url, context=QUIET)
        assert done.verified.get("server's MD5", 0) >= 25
        found = open_features(Store.open(url))
        assert found.coverage().usable.all()
        assert np.array_equal(found.load()[1], open_features(store).load()[1])
        copy_store(url, tmp_path / "back.fungi", context=QUIET)
    assert faults.broken.total() > 10
    for path in store.root.rglob("*"):
        key = path.relative_to(store.root)
        if path.is_file() and ".locks" not in key.parts:
            assert (tmp_path / "back.fungi" / key).read_bytes() == path.read_bytes()
    assert verify_store(tmp_path / "back.fungi").is_sound
    open_bucket.cache_clear()
